"""Host memory that opening a model for an evaluation takes, in the type that a GPU computes in.

    python tests/memory/evaluation.py [--layers 12] [--json]

A model of random weights, its full fine-tune and LoRA adapters over it are opened in bfloat16, as on a GPU,
but in host memory. What the peak has beyond 2 bytes per parameter is what a rank on a GPU needs there. Peaks
are the kernel's (VmHWM), less what the process held before; pages of mapped files count, although ranks share
them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from gemfit.evaluate import models
from gemfit.evaluate.models import find_models, open_packed
from gemfit.rundir import RunDir
from gemfit.schemas.recipe_model import Lora, ModelRecipe
from memory.loading import MEBI, save_model, status
from train.trained import train

M_MMAP_THRESHOLD, SMALL_BYTES = -3, 2**16
"""Of ``mallopt``: weights get pages of their own, which are gone with them. Those of a heap would be used
again by the next model, unseen."""
CASES = (("base", "base"), ("full fine-tune", "latest"), ("adapters", "latest"))


def peak(run: RunDir, name: str) -> dict[str, Any]:
    """Bytes that opening model ``name`` of ``run`` takes, and the type of its parameters."""
    (ref,) = find_models(run, [name])
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = status("VmRSS")
    model = open_packed(run, ref, "cpu")
    return {"peak": status("VmHWM") - before, "dtype": str(next(model.parameters()).dtype)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, SMALL_BYTES)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parameters = save_model(root / "model", layers=arguments.layers, vocabulary=512)
        full = ModelRecipe(id=str(root / "model"), dtype="bfloat16", attention="sdpa")
        (root / "full").mkdir()
        (root / "adapted").mkdir()
        runs = [train(root / "full", full).run] * 2
        runs.append(train(root / "adapted", full.model_copy(update={"lora": Lora(rank=4)})).run)
        with mock.patch.object(models, "compute_dtype", return_value=torch.bfloat16):
            for (case, name), run in zip(CASES, runs, strict=True):
                rows[case] = peak(run, name)
    if arguments.json:
        print(json.dumps({"parameters": parameters, "cases": rows}))
        return
    print(f"{parameters:,} parameters: {2 * parameters / MEBI:.0f} MiB in bfloat16")
    for case, row in rows.items():
        print(f"{case}: {row['peak'] / MEBI:.0f} MiB at the peak, {row['dtype']}")


if __name__ == "__main__":
    main()
