"""``python -m gemfit.train.checks.doctor [RECIPE.json] [--full]``: checks that need torch, as JSON.

Exit status 0 whatever is found; 2 for a file that is not a valid recipe.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers.utils.logging import disable_progress_bar

from gemfit.core.gpu_count import count_device_files
from gemfit.core.marked_answer import write_answer
from gemfit.core.network_interface import interface_addresses, interface_of, local_address
from gemfit.errors import ExitCode, UserError
from gemfit.schemas.check import CheckResult, error, ok, warning
from gemfit.schemas.recipe import Recipe
from gemfit.train.checks.recipe_checks import check_recipe
from gemfit.train.model.attention_checks import prepare_attention

RENDEZVOUS_SECONDS = 20.0


def main() -> ExitCode:
    """Run the checks and print them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m gemfit.train.checks.doctor")
    parser.add_argument("recipe", type=Path, nargs="?", help="a resolved recipe, as JSON")
    parser.add_argument("--full", action="store_true", help="load the recipe's own weights")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    warnings.simplefilter("ignore")  # problems are reported as checks
    disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prepare_attention(device)
    checks = list(check_torch())
    if arguments.recipe is not None:
        try:
            recipe = Recipe.read(arguments.recipe)
        except UserError as fault:
            sys.stderr.write(f"error: {fault}\n")
            return ExitCode.USER_ERROR
        checks += check_recipe(recipe, torch.device(device), full=arguments.full)
    write_answer(json.dumps([check.model_dump() for check in checks]))
    return ExitCode.DONE


def check_torch() -> Iterator[CheckResult]:
    """GPUs as torch sees them, rendezvous, and the compiler."""
    if torch.cuda.is_available():
        yield from _check_cuda()
    else:
        yield judge_absent_gpu(torch.version.cuda, count_device_files(Path("/")))
    address = local_address()
    yield check_rendezvous(address or "127.0.0.1")
    yield judge_host_name(socket.gethostname(), _resolved(socket.gethostname()), address)
    compiler = shutil.which("g++") or shutil.which("c++")
    yield ok("torch", "compiler", compiler or "none: model.compile does not work on CPUs")


def judge_absent_gpu(built_for: str | None, plugged: int) -> CheckResult:
    """The check for a torch without GPUs on a machine with ``plugged`` of them."""
    if plugged:
        why = f"built for CUDA {built_for}" if built_for else "built for CPUs only"
        found = f"torch ({why}) sees none of {plugged}"
        return error(
            "torch", "GPUs", found, "install the torch that fits the driver; look at CUDA_VISIBLE_DEVICES"
        )
    return ok("torch", "GPUs", "none: training is on CPUs, for tests and tiny models")


def _check_cuda() -> Iterator[CheckResult]:
    nccl = ".".join(map(str, _nccl_version())) if dist.is_nccl_available() else None
    cudnn: Any = torch.backends.cudnn
    found = f"CUDA {torch.version.cuda}, cuDNN {cudnn.version()}, NCCL {nccl or 'absent'}"
    if nccl is None and torch.cuda.device_count() > 1:
        yield error("torch", "libraries", found, "install a torch with NCCL: several GPUs need it")
    else:
        yield ok("torch", "libraries", found)
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield judge_memory(f"GPU {index}", torch.cuda.get_device_name(index), free, total)
    yield judge_bfloat16(
        [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    )


def judge_bfloat16(capabilities: list[tuple[int, int]]) -> CheckResult:
    """Whether all GPUs have bfloat16 units; torch counts its emulation on older ones as support."""
    without = [f"GPU {index}" for index, found in enumerate(capabilities) if found < (8, 0)]
    if without:
        found = f"emulated by {', '.join(without)}: no bfloat16 units"
        return error("torch", "bfloat16", found, "set model.dtype to float32, or use other GPUs")
    return ok("torch", "bfloat16", "supported by the GPU; cuDNN attention is off (NaN on H100)")


def _nccl_version() -> tuple[int, ...]:
    found: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return found


def judge_memory(name: str, gpu_name: str, free: int, total: int) -> CheckResult:
    """Whether the memory of a GPU is free."""
    found = f"{gpu_name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if free < 0.9 * total:
        return warning("torch", name, found, "other processes use its memory: look at nvidia-smi")
    return ok("torch", name, found)


def check_rendezvous(host: str) -> CheckResult:
    """Whether a process group can be opened at ``host``, as all ranks do."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    try:
        address, patience = f"tcp://{host}:{port}", timedelta(seconds=RENDEZVOUS_SECONDS)
        dist.init_process_group("gloo", init_method=address, rank=0, world_size=1, timeout=patience)
        dist.all_reduce(torch.ones(1))
        dist.destroy_process_group()
    except (RuntimeError, OSError) as fault:
        first = str(fault).splitlines()[0]
        do = "give this host an address that it reaches: GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME choose one"
        return error("torch", "rendezvous", first, do)
    return ok("torch", "rendezvous", f"a process group opens at {host}")


def judge_host_name(name: str, resolved: str | None, address: str | None) -> CheckResult:
    """Which address gloo would bind to, with ``resolved`` of the host's ``name``, and which others reach."""
    interface = interface_of(address, interface_addresses()) if address is not None else None
    if chosen := os.environ.get("GLOO_SOCKET_IFNAME"):
        return ok("torch", "gloo", f"GLOO_SOCKET_IFNAME selects {chosen}")
    if interface is None or resolved == address:
        return ok("torch", "gloo", f"{name} resolves to {resolved or 'no address'}")
    found = f"{name} resolves to {resolved or 'no address'}, and the route outside is {interface} ({address})"
    return ok("torch", "gloo", f"{found}: Slurm jobs set GLOO_SOCKET_IFNAME; set it for other launchers")


def _resolved(name: str) -> str | None:
    with suppress(OSError):
        return socket.gethostbyname(name)
    return None


if __name__ == "__main__":
    sys.exit(main())
