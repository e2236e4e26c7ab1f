"""A run as somebody at the login node sees it: waiting, running, stopped, elsewhere, forgotten by Slurm."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gemfit.data.pack.shuffle import rows_of_step
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.metrics import LedgerRecord
from gemfit_launch.slurm.records.job_files import JobFiles
from realslurm import Cluster, wait_until
from slurmruns import RECIPE, SITE, Bench, SlurmRun

pytestmark = [pytest.mark.slurm, pytest.mark.dist, pytest.mark.slow]

STEPS = 200  # enough to look at it, and to stop it before its end, on a busy machine too
TOKEN = "hf_0123456789abcdefTOKEN"
SITE_WITH_TOKEN = {
    "ranks_per_node": 1,
    "setup": ['if [ -n "$HF_TOKEN" ]; then echo yes >"$RUN_DIR/arrived"; fi'],
}
RECIPE_TO_PACK = RECIPE | {"length.max_steps": str(STEPS), "data.seq_len": "48"}


@dataclass(frozen=True)
class Seen:
    """Output of the commands, in the order of its fields."""

    run: SlurmRun
    pack_job: int
    waiting: dict[str, Any]
    running: dict[str, Any]
    open_to_all: str
    """What Slurm and ps show to other users."""
    stopped: dict[str, Any]
    resumed: dict[str, Any]
    forgotten: dict[str, Any]
    logs_of_forgotten: str


@pytest.fixture(scope="module")
def seen(bench: Bench, cluster: Cluster) -> Iterator[Seen]:
    """One run: packed by a job of its own, stopped on 2 nodes, completed on 3, and forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("WANDB_API_KEY", TOKEN)
        (bench.folder / "token.site.yaml").write_text(json.dumps(SITE | SITE_WITH_TOKEN))
        settings = [part for key, value in RECIPE_TO_PACK.items() for part in ("--set", f"{key}={value}")]
        asked = ["debug/cpu-tiny", "--data", "conversations.jsonl", *settings, "--run", "seen"]
        site = ["--site", "token.site.yaml", "--nodes", "2"]
        submitted = json.loads(bench.gemfit("submit", *asked, *site, "--json"))
        run = SlurmRun(bench, RunDir(bench.folder / "seen"), submitted["job"])
        waiting = status(bench)
        run.await_step(3)
        running, open_to_all = status(bench), visible_to_all(cluster, run)
        bench.gemfit("stop", "seen", "--wait")
        stopped = status(bench)
        again = json.loads(bench.gemfit("resume", "seen", "--nodes", "3", "--json"))
        resumed = SlurmRun(bench, run.run, again["job"])
        assert resumed.await_end() == "COMPLETED", resumed.explain()
        after = status(bench)
        forget(cluster, resumed.job)
        yield Seen(
            run=resumed,
            pack_job=submitted["pack_job"],
            waiting=waiting,
            running=running,
            open_to_all=open_to_all,
            stopped=stopped,
            resumed=after,
            forgotten=status(bench),
            logs_of_forgotten=bench.gemfit("logs", "seen", "--follow"),
        )


def status(bench: Bench) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(bench.gemfit("status", "seen", "--json"))[0]
    return answer


def visible_to_all(cluster: Cluster, run: SlurmRun) -> str:
    """The job as Slurm shows it, its script as it was spooled, and every command line of this machine."""
    spooled = list((cluster.folder / "spool").glob(f"*/job{run.job:05}/slurm_script"))
    assert spooled, "the batch script lies where slurmd has put it"
    return "\n".join(
        [
            cluster.call("scontrol", "show", "job", str(run.job)),
            cluster.call("scontrol", "write", "batch_script", str(run.job), "-"),
            cluster.call("ps", "-eo", "args"),
            *(path.read_text() for path in spooled),
        ]
    )


def forget(cluster: Cluster, job: int) -> None:
    """Let the controller forget jobs two seconds after their end; it looks about once a minute."""
    age, cluster.min_job_age = cluster.min_job_age, 2
    cluster.set_parameters(cluster.parameters)
    wait_until(lambda: cluster.state(job) == "UNKNOWN", 150)
    cluster.min_job_age = age
    cluster.set_parameters(cluster.parameters)


def test_while_the_data_is_packed_the_status_says_so(seen: Seen) -> None:
    assert (seen.waiting["state"], seen.waiting["job"]) == (
        "pending",
        JobFiles(seen.run.run).submissions()[0].job,
    )
    assert f"by job {seen.pack_job}" in seen.waiting["waits_for"]


def test_a_running_job_shows_its_step_and_pace(seen: Seen) -> None:
    assert (seen.running["state"], seen.running["attempt"]) == ("running", 1)
    assert 3 <= seen.running["step"] <= seen.running["total_steps"] == STEPS
    assert seen.running["loss"] > 0
    assert seen.running["tokens_per_second"] > 0
    assert seen.running["waits_for"] == ""


def test_the_pack_job_made_the_plan_exact_before_training(seen: Seen) -> None:
    assert seen.run.run.plan().steps.rows_are == "packed"
    assert JobFiles(seen.run.run).log("pack", seen.pack_job).read_text().count("packed: ") == 1


def test_a_stopped_run_saved_and_did_not_come_back(seen: Seen) -> None:
    assert seen.stopped["state"] == AttemptOutcome.STOPPED
    assert 3 <= seen.stopped["step"] < STEPS
    assert len(seen.run.attempts) == 2


def test_on_more_nodes_the_run_goes_on_with_the_same_rows_in_each_step(seen: Seen) -> None:
    assert seen.resumed["state"] == AttemptOutcome.COMPLETED
    assert [len(attempt.start.nodes) for attempt in seen.run.attempts] == [2, 3]
    plan = seen.run.run.plan()
    assert plan.topology.nodes == 3
    lines = seen.run.run.ledger_file.read_text().splitlines()
    fed = {record.step: record.rows for record in map(LedgerRecord.model_validate_json, lines)}
    assert sorted(fed) == list(range(1, STEPS + 1))
    for step, rows in fed.items():
        planned = rows_of_step(
            step - 1,
            global_batch_size=plan.batch.global_batch_size,
            rows_per_epoch=plan.steps.rows,
            total_rows=STEPS * plan.batch.global_batch_size,
            seed=plan.recipe.seed,
        )
        assert rows == tuple(planned.tolist()), f"step {step}"


def test_the_state_of_a_job_that_slurm_forgot_is_read_from_the_run_folder(seen: Seen) -> None:
    assert seen.forgotten == seen.resumed
    assert seen.forgotten["job"] == seen.run.job
    assert seen.logs_of_forgotten.count("==> attempt ") == 2
    assert f"step {STEPS}/{STEPS}" in seen.logs_of_forgotten


def test_the_token_reaches_the_job_and_is_written_nowhere(seen: Seen) -> None:
    root = seen.run.run.root
    assert (root / "arrived").is_file()
    read = [path for path in root.rglob("*") if path.is_file()]
    assert len(read) > 50, "the code, logs and checkpoints are among them"
    assert not [path for path in read if TOKEN.encode() in path.read_bytes()]
    assert "gemfit_launch.slurm.node.job" in seen.open_to_all, "the script is among it"
    assert TOKEN not in seen.open_to_all


def asked_at(site: Mapping[str, object], seen: Seen, folder: Path) -> list[str]:
    """Arguments for a run of the packed conversations at ``site``."""
    (folder / "site.yaml").write_text(json.dumps(site))
    data = seen.run.bench.folder / "conversations.jsonl"
    return ["debug/cpu-tiny", "--data", str(data), "--site", str(folder / "site.yaml")]


def test_preflight_compares_notice_and_lead_with_what_a_run_took(
    cluster: Cluster, seen: Seen, tmp_path: Path
) -> None:
    limited = SITE | {"time": "1:00:00", "partition": "lowgrace", "signal_lead_seconds": 100}
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "plan.json").write_bytes(seen.run.run.plan_file.read_bytes())
    lines = [json.loads(line) for line in seen.run.run.metrics_file.read_text().splitlines()]
    saves = [line | {"write_seconds": 100.0} for line in lines if line["kind"] == "save"]
    assert saves
    steps = [line for line in lines if line["kind"] == "step"]
    (slow / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps + saves))
    asked = asked_at(limited, seen, tmp_path)
    findings = {f["name"]: f for f in preflight(cluster, *asked, "--nodes", "1", "--like", str(slow))}
    assert findings["preemption"]["state"] == "warning"
    assert "25 seconds from notice to kill" in findings["preemption"]["found"]
    assert findings["signal_lead_seconds"]["state"] == "error"
    quick = {f["name"]: f["state"] for f in preflight(cluster, *asked, "--like", str(seen.run.run.root))}
    assert quick["preemption"] == "ok"
    assert "signal_lead_seconds" not in quick


@pytest.fixture(scope="module")
def planted(cluster: Cluster, seen: Seen) -> Iterator[None]:
    """After the run: a node that is drained, one whose name resolves to nothing, and a time limit."""
    cluster.call("scontrol", "update", "nodename=n3", "state=drain", "reason=planted")
    cluster.call("scontrol", "update", "nodename=n4", "nodeaddr=nowhere.invalid")
    cluster.call("scontrol", "update", "partitionname=low", "maxtime=30")
    yield
    cluster.call("scontrol", "update", "partitionname=low", "maxtime=UNlimited")
    cluster.call("scontrol", "update", "nodename=n4", "nodeaddr=127.0.0.1")
    cluster.call("scontrol", "update", "nodename=n3", "state=resume")


@pytest.mark.parametrize(
    ("nodes", "change", "about", "words"),
    [
        (1, "partition=lwo", "partition", "did you mean 'low'"),
        (5, "cpus_per_node=1", "nodes", "5 requested, and low has 4"),
        (4, "cpus_per_node=1", "nodes", "n3 IDLE+DRAIN"),
        (1, "cpus_per_node=5", "CPUs", "at most 4"),
        (1, "memory=5G", "memory", "at most 4000M"),
        (1, "constraint=fast", "constraint", "fast: 0 of 4 nodes"),
        (2, "cpus_per_node=1", "addresses", "n4: the name does not resolve"),
        (1, "time=1:00:00", "time", "longer than low allows"),
        (1, "time=2", "time", "the time limit only 120 seconds"),
        (1, "gpu_kind=h100", "GPUs", "nodes have 2 GPUs"),
    ],
)
def test_preflight_names_a_planted_mistake(
    nodes: int,
    change: str,
    about: str,
    words: str,
    planted: None,
    cluster: Cluster,
    tmp_path: Path,
    seen: Seen,
) -> None:
    gpus = {"gpus_per_node": 1, "ranks_per_node": None} if change.startswith("gpu") else {}
    asked = asked_at(SITE | {"signal_lead_seconds": 100} | gpus, seen, tmp_path)
    findings = preflight(cluster, *asked, "--nodes", str(nodes), "--site-set", change)
    assert [f for f in findings if f["state"] == "error" and f["name"] == about and words in f["found"]], (
        findings
    )


def preflight(cluster: Cluster, *arguments: str) -> list[dict[str, str]]:
    answer = cluster.call(
        sys.executable, "-m", "gemfit_launch.cli", "preflight", *arguments, "--json", check=False
    )
    found: list[dict[str, str]] = json.loads(answer[answer.index("[") : answer.rindex("]") + 1])
    return found
