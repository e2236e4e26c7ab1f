"""Fine-tune the real Gemma 3 270M on real conversations with two ranks on a CPU, and show what it did.

    python examples/gemma-270m-chat/run.py

Prepare, pack, answer, train, export, answer again, evaluate, card, report. Everything lies in ``work/``.
A second call goes on where the first one was stopped; remove ``work/run`` to train anew. Under an hour on
two busy cores.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import prepare

HERE = Path(__file__).parent
RUN = Path("work/run")
REPORT = HERE / "work/report.md"
RECIPE = ("recipe.yaml", "--nproc", "2", "--device", "cpu")
MESSAGES = ("Hey, how was your weekend?", "I can't sleep before my exams.")
STOPPED = 75


def main() -> None:
    prepare.prepare()
    pack = json.loads(gemfit("pack", "recipe.yaml", "--json"))
    before = [answer(prepare.MODEL.relative_to(HERE), message) for message in MESSAGES]
    train()
    if not (HERE / RUN / "export").exists():
        gemfit("export", str(RUN))
    after = [answer(RUN, message) for message in MESSAGES]
    gemfit("eval", str(RUN), "--nproc", "2", "--samples", "4", "--max-new-tokens", "48", capture=False)
    gemfit("card", str(RUN), "--language", "en", capture=False)
    gemfit("report", str(RUN), capture=False)
    REPORT.write_text(report(pack, read_metrics(), before, after), "utf-8")
    print("\n" + REPORT.read_text("utf-8"))


def train() -> None:
    """Train to the end, or go on with a run that was stopped."""
    verdict = HERE / RUN / "verdict.json"
    if verdict.is_file() and json.loads(verdict.read_text())["outcome"] == "completed":
        return
    started = (HERE / RUN / "plan.json").is_file()
    arguments = ("resume", str(RUN)) if started else ("run", *RECIPE, "--run", str(RUN))
    gemfit(*arguments, capture=False)


def answer(model: Path, message: str) -> str:
    """What a model replies, drawn with a fixed seed: the likeliest words of a base model go in circles."""
    options = ("--max-new-tokens", "40", "--temperature", "0.7", "--seed", "0", "--json")
    return str(json.loads(gemfit("chat", str(model), "--message", message, *options))["reply"])


def gemfit(*arguments: str, capture: bool = True) -> str:
    """Carry out one verb in this folder; what it says on stdout."""
    print(f"\n$ gemfit {shlex.join(arguments)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "gemfit_launch.cli", *arguments],
        cwd=HERE,
        env=os.environ | {"GEMFIT_CACHE": str(HERE / "work/cache")},
        stdout=subprocess.PIPE if capture else None,
        text=True,
    )
    if done.returncode == STOPPED:
        sys.exit("stopped; run this script again to go on")
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def read_metrics() -> list[dict[str, Any]]:
    """Everything that was measured while training."""
    return [json.loads(line) for line in (HERE / RUN / "metrics.jsonl").read_text("utf-8").splitlines()]


def report(pack: dict[str, Any], metrics: list[dict[str, Any]], before: list[str], after: list[str]) -> str:
    """The figures as Markdown."""
    steps = [record for record in metrics if record["kind"] == "step"]
    evaluations = [record for record in metrics if record["kind"] == "eval"]
    # The first step also compiles kernels and warms caches.
    speeds = sorted(record["tokens_per_second"] for record in steps[1:])
    counts = pack["splits"]["train"]
    lines = [
        f"- packed: {counts['rows']:,} rows of {pack['seq_len']}, "
        f"{counts['tokens'] / (counts['rows'] * pack['seq_len']):.1%} real tokens",
        f"- trained: {len(steps)} steps, median {speeds[len(speeds) // 2]:.0f} tokens/s over both ranks",
        "",
        "| steps | held-out loss | perplexity | token accuracy |",
        "|---|---|---|---|",
        *(
            f"| {e['step']} | {e['loss']:.3f} | {e['perplexity']:.1f} | {e['token_accuracy']:.1%} |"
            for e in evaluations
        ),
        "",
        "| message | reply before | reply after |",
        "|---|---|---|",
        *(" | ".join(("", *map(cell, row), "")).strip() for row in zip(MESSAGES, before, after, strict=True)),
    ]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """``text`` inside a Markdown table."""
    return text.strip().replace("|", "\\|").replace("\n", " ⏎ ")


if __name__ == "__main__":
    main()
