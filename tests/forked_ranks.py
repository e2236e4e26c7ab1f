"""Ranks of real runs, forked from one process that has imported everything.

A process that trains spends eight to ten seconds on imports. Here the parent imports once and forks:
each rank is a process with an environment and a process group of its own, and goes through
``gemfit.train`` as one started by ``accelerate launch`` does. The parent starts no thread and joins no
group. For tests and benchmarks that need hundreds of starts.
"""

from __future__ import annotations

import gc
import itertools
import os
import pkgutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

os.environ |= {
    "CUDA_VISIBLE_DEVICES": "",
    "DS_ACCELERATOR": "cpu",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's allocator would start a thread here
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

# Imported here so that no rank has to: the second brings the compiler of torch along.
import deepspeed
import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)

from forked_ranks_environment import (
    BUILT_FOR_CUDA,
    CUDA_PLAN,
    POISONED_ROW,
    SLOW_BATCHES,
    SLOW_LAYERS,
    SLOW_NETWORK,
    VARLEN_KERNEL,
)
from gemfit.core.stop_signals import LAUNCHER_VARIABLE, end_with_parent
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.optimizer import optimizer_of
from gemfit.schemas.plan import Plan, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.strategy import Single
from gemfit.train import main as training
from gemfit.train.__main__ import main as train_main
from gemfit.train.distributed.cpu_backend import leave
from gemfit.train.loop.trainer import PackedTrainer
from gemfit.train.model.packed_lm import PackedCausalLM
from gemfit_launch.planning.write_configs import write_configs
from gemfit_launch.runs.local import environment
from train.varlen_reference import in_float32

GRACE_SECONDS = 20.0
"""Between the end of the first rank and SIGKILL to the others."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The processes of one attempt."""

    run: RunDir
    attempt: int
    pids: tuple[int, ...]

    def kill(self) -> None:
        """SIGKILL to all of them, and wait until they are gone."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)

    def wait(self, *, timeout_seconds: float = 300.0) -> ExitCode:
        """The exit code of all of them; different ones stops the benchmark with their log."""
        ended: dict[int, int] = {}
        deadline = time.monotonic() + timeout_seconds
        while len(ended) < len(self.pids):
            for pid in self.pids:
                if pid not in ended and (found := os.waitpid(pid, os.WNOHANG))[0]:
                    ended[pid] = os.waitstatus_to_exitcode(found[1])
            differ = len(set(ended.values())) > 1
            if differ or ExitCode.FAILED in ended.values() or time.monotonic() > deadline:
                self._give_up(ended)
            time.sleep(0.01)
        return ExitCode(ended[self.pids[0]])

    def returncode(self, *, timeout_seconds: float) -> int:
        """What all ranks ended with, or ``ExitCode.FAILED`` where they differ.

        As torchrun does, ends the other ranks soon after one has ended by itself.
        """
        codes: dict[int, int] = {}
        deadline = time.monotonic() + timeout_seconds
        while waiting := set(self.pids) - codes.keys():
            for pid in waiting:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                if (found := os.waitpid(pid, os.WNOHANG))[0]:
                    codes[pid] = os.waitstatus_to_exitcode(found[1])
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            time.sleep(0.01)
        return codes[self.pids[0]] if len(set(codes.values())) == 1 else ExitCode.FAILED

    @property
    def ended(self) -> bool:
        """Whether some rank has ended; ``wait`` tells how. Reaps nothing."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return any(os.waitid(os.P_PID, pid, flags) is not None for pid in self.pids)

    def log(self) -> str:
        return self.run.log(self.attempt).read_text()

    def _give_up(self, ended: dict[int, int]) -> NoReturn:
        for pid in set(self.pids) - ended.keys():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        sys.exit(f"{self.run.root}: ranks ended with {sorted(ended.values())}\n{self.log()[-4000:]}")


def start(
    run: RunDir, *, stop_at: int | None = None, trainer: type[PackedTrainer] = PackedTrainer
) -> Attempt:
    """Begin an attempt of ``run``, with ``trainer``: fork all its ranks, and return at once."""
    plan = run.plan()
    write_configs(run, plan)
    attempt, port = run.begin_attempt(), next(PORTS)
    env = environment(plan, os.environ, attempt=attempt, port=port) | {
        "MASTER_ADDR": "127.0.0.1",
        "WORLD_SIZE": str(plan.topology.world_size),
        "LOCAL_WORLD_SIZE": str(plan.topology.world_size),
    }
    argv = [str(run.root), *(["--stop-at", str(stop_at)] if stop_at is not None else [])]
    sys.stdout.flush()
    sys.stderr.flush()
    # What was imported is no garbage: a collection in a rank would copy every page of it.
    gc.freeze()
    with mock.patch.object(training, "PackedTrainer", trainer):  # the forks inherit it
        pids = tuple(_fork(run, plan, env, rank, argv) for rank in range(plan.topology.world_size))
    return Attempt(run, attempt, pids)


def assert_one_thread() -> None:
    """A fork copies the calling thread only: what others hold would stay held for ever."""
    deadline = time.monotonic() + 5
    # A thread that was joined may still be on its way out.
    while (threads := len(list(Path("/proc/self/task").iterdir()))) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads == 1, f"the parent of the ranks has {threads} threads"


def _fork(run: RunDir, plan: Plan, env: dict[str, str], rank: int, argv: list[str]) -> int:
    parent = os.getpid()
    if pid := os.fork():
        return pid
    try:
        os.setsid()  # as torchrun does; the kernel shares processors out by sessions
        end_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it ended before it could be watched
        _print_into(run.log(int(env["GEMFIT_ATTEMPT"])))
        if not isinstance(plan.recipe.strategy, Single):  # torchrun numbers ranks; a plain process has none
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        else:
            env = {k: v for k, v in env.items() if k not in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        os.environ.clear()
        os.environ |= env | _launcher_environment(run)
        del os.environ[LAUNCHER_VARIABLE]  # no launch command is between it and its ranks
        sys.argv = ["gemfit.train", *argv]
        if CUDA_PLAN in os.environ:
            _use_settings_of_gpus()
        if BUILT_FOR_CUDA in os.environ:
            mock.patch("torch._C._get_accelerator", return_value=torch.device("cuda")).start()
        if os.environ.get(VARLEN_KERNEL, str(rank)) != str(rank):
            mock.patch("torch.nn.attention.varlen.varlen_attn", in_float32).start()
        _plant_delay(SLOW_LAYERS, "transformers.models.gemma3.modeling_gemma3.Gemma3MLP.forward", rank)
        _plant_delay(SLOW_BATCHES, "gemfit.train.data.prefetch_loader._get", rank)
        for call in ("all_reduce", "irecv"):  # what is sent comes after what is awaited
            _plant_delay(SLOW_NETWORK, f"torch.distributed.{call}", rank)
        _plant_poison()
        leave(train_main())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(ExitCode.FAILED)


def _plant_delay(name: str, function: str, rank: int) -> None:
    """Make ``function`` sleep first, if the variable ``name`` asks for it on this rank."""
    slow_rank, _, seconds = os.environ.get(name, "").partition(":")
    if slow_rank != str(rank):
        return
    original = pkgutil.resolve_name(function)

    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(float(seconds))
        return original(*arguments, **named)

    mock.patch(function, slow).start()


def _plant_poison() -> None:
    """Make values that are not finite of one row, if ``POISONED_ROW`` asks for it."""
    row, _, kind = os.environ.get(POISONED_ROW, "").partition(":")
    if not row:
        return
    compute_loss, summed_losses = PackedTrainer.compute_loss, PackedCausalLM._summed_losses
    met = False

    def with_rows(self: Any, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        nonlocal met
        met = int(row) in inputs.get("rows", ())
        return compute_loss(self, model, inputs, *given, **named)

    def poisoned(self: Any, hidden: torch.Tensor, *given: Any) -> Any:
        if met and kind == "overflow":
            hidden = hidden * torch.finfo(hidden.dtype).max * 2
        losses: Any = summed_losses(self, hidden, *given)
        if met and kind == "loss":
            losses.loss_sum = losses.loss_sum * torch.nan
        elif met and kind == "gradient":
            losses.loss_sum.register_hook(lambda gradient: gradient * torch.inf)
        return losses

    mock.patch.object(PackedTrainer, "compute_loss", with_rows).start()
    mock.patch.object(PackedCausalLM, "_summed_losses", poisoned).start()


def _use_settings_of_gpus() -> None:
    """Let this rank train on its CPU with the optimizer that a plan on GPUs has."""

    def of_gpus(recipe: Recipe, topology: Topology) -> str:
        name = optimizer_of(recipe, topology.model_copy(update={"device": "cuda"}))
        sys.stdout.write(f"optimizer {name}\n")
        return name

    mock.patch("gemfit.train.loop.arguments.optimizer_of", of_gpus).start()


def _print_into(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _launcher_environment(run: RunDir) -> dict[str, str]:
    """What ``accelerate launch`` would set for this run's configuration."""
    argv = ["--config_file", str(run.accelerate_file), "-m", "gemfit.train", str(run.root)]
    parsed, defaults, says_precision = _validate_launch_command(launch_command_parser().parse_args(argv))
    if parsed.use_deepspeed:
        fields = [*defaults.deepspeed_config, *(["mixed_precision"] if says_precision else [])]
        parsed.deepspeed_fields_from_accelerate_config = ",".join(fields)
        return dict(prepare_deepspeed_cmd_env(parsed)[1])
    if parsed.use_fsdp or parsed.multi_gpu:
        return dict(prepare_multi_gpu_env(parsed))
    return dict(prepare_simple_launcher_cmd_env(parsed)[1])


def _ports() -> Iterator[int]:
    """Free ports below those that the kernel gives to outgoing connections, each one once a round."""
    for port in itertools.cycle(range(20_000 + os.getpid() % 8_000, 31_000)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


PORTS = _ports()
