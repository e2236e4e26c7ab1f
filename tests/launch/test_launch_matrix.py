"""What ``accelerate launch`` starts for every strategy, by accelerate's own parser and launchers.

Nothing is started: torchrun and subprocesses are recorded. ``tests/golden/launch_matrix.txt`` is the result.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.plan import PackReference, Plan, Topology
from gemfit.schemas.strategy import STRATEGY_NAMES
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.write_configs import write_configs
from gemfit_launch.runs.left_over_ranks import RANK_COMMAND
from gemfit_launch.runs.local import free_port
from gemfit_launch.slurm.node.ranks import Machine, launcher_argv, launcher_environment
from gemfit_launch.slurm.records.job_attempts import AttemptFiles

HOST = "10.0.0.1"
TOKEN = "hf_not_a_real_token"
OFFLOADED = ("fsdp2", "zero1", "zero2", "zero3")
STRATEGIES = [
    (name, offload)
    for name in STRATEGY_NAMES
    for offload in (False, True)
    if name in OFFLOADED or not offload
]
DEVICES: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda")
TOPOLOGIES = [
    Topology(nodes=nodes, ranks_per_node=ranks, device=device)
    for device, nodes, ranks in product(DEVICES, (1, 2), (1, 8))
]
SHOWN = (
    "ACCELERATE_USE_",
    "ACCELERATE_MIXED",
    "FSDP_VERSION",
    "FSDP_OFFLOAD",
    "CUDA_",
    "DS_",
    "OMP_",
    "PYTORCH_",
)


@dataclass(frozen=True)
class Launch:
    """A recorded start of the ranks of one machine."""

    program: str
    arguments: Any
    env: dict[str, str]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Plan, int], Launch]:
    """Run ``accelerate launch`` as the node supervisor of this rank would, up to the start of processes."""
    import torch.distributed.run as torchrun  # noqa: PLC0415  (seconds)
    from accelerate.commands import launch  # noqa: PLC0415

    records: list[Launch] = []

    class RecordedProcess:
        returncode = 0

        def __init__(self, argv: list[str], env: dict[str, str], **others: Any) -> None:
            records.append(Launch(Path(argv[0]).name, argv, dict(env)))

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(
        torchrun, "run", lambda args: records.append(Launch("torchrun", args, dict(os.environ)))
    )
    monkeypatch.setattr(subprocess, "Popen", RecordedProcess)
    monkeypatch.setattr("gemfit_launch.runs.local.available_cores", lambda: 32)
    monkeypatch.chdir(tmp_path)

    def start(plan: Plan, rank: int) -> Launch:
        run = RunDir.create(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", plan)
        write_configs(run, plan)
        run.begin_attempt()
        machine = Machine(
            run=run, plan=plan, files=AttemptFiles(run, 1), rank=rank, name="n", host=HOST, port=free_port()
        )
        argv = launcher_argv(machine)
        env = launcher_environment(machine, {"PATH": os.environ["PATH"], "HF_TOKEN": TOKEN})
        with monkeypatch.context() as patch:
            for name in list(os.environ):
                patch.delenv(name)
            for name, value in env.items():
                patch.setenv(name, value)
            split = argv.index("gemfit.train.accelerate_launch") + 1
            launch.launch_command(launch.launch_command_parser().parse_args(argv[split:]))
        (made,) = records
        records.clear()
        return made

    return start


def plan_for(strategy: str, offload: bool, topology: Topology) -> Plan:
    request = Request(
        name="debug/cpu-tiny", settings=("model.dtype=bfloat16",), strategy=strategy, offload=offload
    )
    return plan_of(request, topology)


def plan_of(request: Request, topology: Topology) -> Plan:
    return make_plan(
        request.recipe(),
        topology=topology,
        pack=PackReference(fingerprint="0" * 32, folder="/packs/0"),
        rows=1000,
        rows_are_packed=True,
    )


def test_copies_of_a_sharded_model_reach_the_ranks_as_a_mesh(
    launched: Callable[[Plan, int], Launch],
) -> None:
    topology = Topology(nodes=2, ranks_per_node=8, device="cuda")
    request = Request(name="gemma3/1b", strategy="fsdp2", settings=("strategy.replicate=node",))
    env = launched(plan_of(request, topology), 0).env
    assert env["ACCELERATE_USE_PARALLELISM_CONFIG"] == "true"
    sizes = [env[f"PARALLELISM_CONFIG_DP_{dimension}_SIZE"] for dimension in ("REPLICATE", "SHARD")]
    assert sizes == ["2", "8"]
    assert "ACCELERATE_USE_PARALLELISM_CONFIG" not in launched(plan_for("fsdp2", False, topology), 0).env


@pytest.mark.parametrize(("strategy", "offload"), STRATEGIES)
@pytest.mark.parametrize("device", DEVICES)
def test_every_strategy_starts_by_torchrun_on_each_of_two_nodes(
    launched: Callable[[Plan, int], Launch], tmp_path: Path, strategy: str, offload: bool, device: Any
) -> None:
    from torch.distributed.run import config_from_args  # noqa: PLC0415  (seconds)

    if strategy == "single":
        return  # one rank
    for ranks, rank in product((1, 8), (0, 1)):
        plan = plan_for(strategy, offload, Topology(nodes=2, ranks_per_node=ranks, device=device))
        made = launched(plan, rank)
        assert made.program == "torchrun"
        args = made.arguments
        assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("2", str(ranks), rank)
        assert args.rdzv_endpoint.startswith(f"{HOST}:") or args.master_addr == HOST
        _, program, words = config_from_args(args)
        assert RANK_COMMAND in "\0".join(map(str, [program, *words])).encode(), (
            "else no rank that is left over is found"
        )
        assert made.env["HF_TOKEN"] == TOKEN
    assert not list(tmp_path.rglob(".deepspeed_env"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN in path.read_text()]


def test_the_launch_matrix_is_as_it_was(
    launched: Callable[[Plan, int], Launch], golden: Callable[[str, str], None]
) -> None:
    golden("launch_matrix.txt", "".join(f"{line}\n" for line in _matrix(launched)))


def _matrix(launched: Callable[[Plan, int], Launch]) -> Iterator[str]:
    for topology, (strategy, offload) in product(TOPOLOGIES, STRATEGIES):
        name = strategy + ("+offload" if offload else "")
        place = f"{topology.device:4} {topology.nodes}x{topology.ranks_per_node} {name:13}"
        try:
            plan = plan_for(strategy, offload, topology)
        except UserError as error:
            yield f"{place} refused: {str(error).splitlines()[0]}"
            continue
        yield f"{place} {_shown(launched(plan, topology.nodes - 1))}"


def _shown(made: Launch) -> str:
    args = made.arguments
    how = "python" if made.program.startswith("python") else made.program
    if made.program == "torchrun":
        endpoint = (args.rdzv_endpoint or args.master_addr or "").partition(":")[0]
        how = f"torchrun {args.nnodes}x{args.nproc_per_node} node_rank={args.node_rank} at {endpoint}"
    env = sorted(f"{name}={value}" for name, value in made.env.items() if name.startswith(SHOWN))
    return " ".join([how, *env])
