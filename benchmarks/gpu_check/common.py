"""Shared by all parts: the scale (GPU or dry), models with random weights, runs and their records."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.pack_job import make_pack_job
from gemfit_launch.argv import to_argv
from gemfit_launch.planning.replan import replan
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.ensure_pack import ensure_pack

BENCHMARKS = Path(__file__).resolve().parents[1]
TESTS = BENCHMARKS.parent / "tests"
SMALL: dict[str, Any] = {
    "vocab_size": 32_768,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
}
"""Five sliding layers and a global one, heads as wide as those of the real models."""
TINY: dict[str, Any] = SMALL | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 32,
}
"""Of every name in a dry run; widths are multiples of 64, as 4-bit blocks need."""
TINY_RECIPE = "debug/cpu-tiny"
FIXED = (
    "length.num_epochs=null",
    "tracking.report_to=[]",
    "data.validation_share=0",
    "evaluation.every_steps=1000",
    "checkpoint.every_steps=1000",
    "checkpoint.keep=1",
    "checkpoint.keep_best=false",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Sizes and device of a check: those of a GPU, or tiny ones on the CPU (dry)."""

    dry: bool
    work: Path
    """Data, model folders, packs and runs of this check."""

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return "cpu" if self.dry else "cuda"

    @property
    def seq_len(self) -> int:
        return 128 if self.dry else 1024

    @property
    def dtype(self) -> str:
        return "float32" if self.dry else "bfloat16"

    @property
    def data(self) -> Path:
        return self.work / "conversations.jsonl"

    def model(self, name: str) -> Path:
        """The folder of the model ``name``: small, wide, 1b or 4b."""
        return self.work / "models" / ("tiny" if self.dry else name)


def settings_of(scale: Scale, model: str, recipe: str, settings: Mapping[str, Any]) -> list[str]:
    """`KEY=VALUE` for a run of the check; dots of recipe keys are double underscores in ``settings``."""
    small = {"batch__global_batch_size": 8, "batch__max_per_device_batch_size": 4} if scale.dry else {}
    values = {"model__dtype": scale.dtype, "data__seq_len": scale.seq_len} | dict(settings) | small
    scratch = ["model.scratch=null"] if recipe.startswith("debug/") else []
    listed = [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
    return [*FIXED, *scratch, f"model.id={scale.model(model)}", *listed]


def make_run(
    scale: Scale,
    name: str,
    *,
    model: str = "small",
    recipe: str = TINY_RECIPE,
    strategy: str = "single",
    offload: bool = False,
    **settings: Any,
) -> RunDir:
    """A run folder with an exact plan on one rank; its pack is built on first use."""
    request = Request(
        name=recipe,
        settings=tuple(settings_of(scale, model, recipe, settings)),
        data=str(scale.data),
        strategy=strategy,
        offload=offload,
    )
    found, ranks = request.recipe(), Ranks(nproc=1, device=scale.device)
    folder = Path(resolve_plan(found, ranks).pack.folder)
    ensure_pack(make_pack_job(found), folder, force=False, say=lambda line: None)
    return RunDir.create(scale.work / "runs" / name, resolve_plan(found, ranks))


def change_strategy(scale: Scale, run: RunDir, strategy: str, *, offload: bool) -> None:
    """Let the next attempt of ``run`` use another strategy, as `gemfit resume --strategy` does."""
    request, ranks = Request(name="", strategy=strategy, offload=offload), Ranks(device=scale.device)
    plan = replan(run.plan(), request, ranks, str(run.plan_file))
    with run.hold():
        run.adopt(plan)


def train(scale: Scale, run: RunDir, *, stop_at: int | None = None) -> None:
    """One attempt: by `gemfit resume`; on forked ranks where dry, which saves imports.

    Raises ``RuntimeError`` with the log's end unless it completes or stops.
    """
    if not scale.dry:
        gemfit("resume", str(run.root), *to_argv({"stop_at": stop_at}))
        return
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    import forked_ranks  # noqa: PLC0415  (it hides GPUs from this process)

    try:
        code = forked_ranks.start(run, stop_at=stop_at).wait(timeout_seconds=120)
    except SystemExit as error:
        raise RuntimeError(str(error)) from None
    if code not in (ExitCode.DONE, ExitCode.STOPPED):
        raise RuntimeError(f"{run.root.name}: {code.name}: {run.log(run.attempt).read_text()[-1000:]}")


def gemfit(*arguments: str) -> str:
    """Output of the command line; ``RuntimeError`` unless it completes or stops resumable."""
    argv = [sys.executable, "-m", "gemfit_launch.cli", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode not in (ExitCode.DONE, ExitCode.STOPPED):
        raise RuntimeError(f"gemfit {arguments[0]}: {(done.stdout + done.stderr)[-1200:]}")
    return done.stdout


def records(run: RunDir, kind: str) -> list[dict[str, Any]]:
    """The records of one kind, of all attempts."""
    lines = run.metrics_file.read_text().splitlines() if run.metrics_file.is_file() else []
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def losses(run: RunDir) -> list[float]:
    """The loss of every step."""
    return [record["loss"] for record in records(run, "step")]


def selftest(run: RunDir) -> dict[str, Any]:
    """Facts that the self-test of the first attempt has logged."""
    lines = run.log(1).read_text().splitlines()
    found = [json.loads(line.partition("selftest ")[2]) for line in lines if "selftest {" in line]
    return found[0] if found else {}


def largest_difference(values: list[float], expected: list[float]) -> float:
    """Relative, over all pairs."""
    return max(abs(a - b) / abs(b) for a, b in zip(values, expected, strict=True))


def keep(scale: Scale, part: str, measured: Mapping[str, Any]) -> None:
    """Write what ``part`` has measured so far; its line has it where the part meets its limit."""
    (scale.work / f"{part}.so-far.json").write_text(json.dumps(measured, default=str))


def save_model(scale: Scale, name: str, text_config: dict[str, Any], tokenizer: Path) -> None:
    """A model folder with random weights in the check's dtype and the tokenizer's files."""
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    folder, values = scale.model(name), {k: v for k, v in text_config.items() if k != "model_type"}
    config = AutoConfig.for_model("gemma3_text", **values)
    torch.manual_seed(0)
    with torch.device(scale.device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, scale.dtype))
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        if file.is_file():
            shutil.copy(file, folder)


def published_config(size: str) -> dict[str, Any]:
    """The text configuration of a published size, such as 1b."""
    from importlib.resources import files  # noqa: PLC0415

    text = files("gemfit_launch.predict").joinpath(f"facts/gemma3-{size}.json").read_text()
    config = json.loads(text)["config"]
    return dict(config.get("text_config") or config)
