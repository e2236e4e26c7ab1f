"""Programs that write for others, failing at every change: nothing half-made, and the next call works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gemfit.core.jsonl_log import append_record
from gemfit.core.module_main import INTERRUPTED
from gemfit.errors import ExitCode
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from publish.conftest import step_record
from train.trained import Trained, train

FAULTS = Path(__file__).parents[1] / "write_faults.py"
STATUS = {
    "ENOSPC": ExitCode.USER_ERROR,
    "EDQUOT": ExitCode.USER_ERROR,
    "EIO": ExitCode.USER_ERROR,
    "SIGINT": INTERRUPTED,
    "SIGTERM": INTERRUPTED,
    "SIGKILL": -9,
}
"""Exit status after each kind of fault."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    scratch = ScratchModel(vocab_size=400, **sizes, head_dim=24)
    made = train(tmp_path_factory.mktemp("full"), ModelRecipe(scratch=scratch, dtype="float32"))
    for step in (1, 2):
        append_record(made.run.metrics_file, step_record(step))
    return made


def outcomes(tmp_path: Path, module: str, argv: list[str], final: Path, every: int) -> list[dict[str, Any]]:
    case = {
        "module": module,
        "argv": argv,
        "folder": str(tmp_path / "out"),
        "final": str(final),
        "kinds": list(STATUS),
        "every": every,
    }
    (tmp_path / "case.json").write_text(json.dumps(case))
    command = [sys.executable, str(FAULTS), str(tmp_path / "case.json")]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "final", "every"),
    [
        ("gemfit.export.export", "out/model", 3),
        ("gemfit.modelcard.card", "out/README.md", 1),
    ],
)
def test_a_fault_at_any_change_leaves_nothing_half_made(
    module: str, final: str, every: int, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    out = tmp_path / final
    argv = [str(trained.run.root), "--out", str(out)]
    found = outcomes(tmp_path, module, argv, out, every)
    assert found
    for one in found:
        # Removing what was left is the last change, which is allowed to fail.
        assert one["status"] in (STATUS[one["kind"]], ExitCode.DONE), one
        assert one["final"] in ("nothing", "whole"), one
        assert not one["hidden"] or one["kind"] == "SIGKILL", one
        assert one["again"] == {"final": "whole", "hidden": []}, one
