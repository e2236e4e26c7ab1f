"""The thread that writes a checkpoint: CUDA calls by thread, while the training goes on."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from common import Scale

from gemfit.train.checkpoint.engine_state import State, read, write
from gemfit.train.checkpoint.host_copy import HostMemory
from gemfit.train.thread_device import device_setter

LOW_HALF = 2**32 - 1


def measure(scale: Scale) -> dict[str, Any]:
    """Events of the CUDA runtime in the writing thread: only those about the copy's own events."""
    torch.manual_seed(0)
    side = 64 if scale.dry else 2048
    state: State = {f"model.{n}": torch.randn(side, side, device=scale.device) for n in range(8)}
    memory, folder = HostMemory(), scale.work / "thread-checkpoint"
    memory.copy(state, everything=True).wait()  # the buffer is made and pinned
    writer, control = set[int](), set[int]()

    def written() -> None:
        writer.update(_ids())
        copy.wait()
        write(copy.state, folder)

    def computed() -> None:
        control.update(_ids())
        torch.ones((), device=scale.device).add_(1)

    activities = torch.profiler.ProfilerActivity
    kinds = [activities.CPU] if scale.dry else [activities.CPU, activities.CUDA]
    trace = scale.work / "thread.trace.json"
    with torch.profiler.profile(activities=kinds) as profile, _thread() as pool:
        copy = memory.copy(state, everything=True)
        waiting = pool.submit(written)
        while not waiting.done():
            torch.relu(next(iter(state.values())))  # type: ignore[arg-type]
        waiting.result()
        with ThreadPoolExecutor(1) as other:
            other.submit(computed).result()
    profile.export_chrome_trace(str(trace))
    calls = _runtime_calls(trace)
    again: State = {name: torch.zeros(side, side) for name in state}
    read(again, folder)
    equal = all(torch.equal(again[n], v.cpu()) for n, v in state.items())  # type: ignore[arg-type,union-attr]
    in_thread = [name for name in _calls_of(writer, calls) if not name.startswith("cudaEvent")]
    faults = [f"the writing thread calls CUDA: {', '.join(in_thread)}"] if in_thread else []
    if not scale.dry and not _calls_of(control, calls):
        faults.append("the CUDA calls of another thread were not seen, so this shows nothing")
    return {
        "cuda_calls_of_the_writing_thread": in_thread,
        "threads_with_cuda_calls": len(calls),
        "read_back_equal": equal,
        **(
            {"dry": "a CPU makes no CUDA call: only writing in a thread and reading back"}
            if scale.dry
            else {}
        ),
        "faults": faults + ([] if equal else ["what was read back is not what was saved"]),
    }


def _thread() -> ThreadPoolExecutor:
    """As the ``Saver`` makes its own."""
    return ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=device_setter())


def _ids() -> set[int]:
    """Numbers of this thread in a trace: that of the kernel, or the low half of the one of pthreads.

    The profiler knows the first only of threads that have run an operation of torch.
    """
    return {threading.get_native_id(), threading.get_ident() & LOW_HALF}


def _calls_of(ids: set[int], calls: dict[int, list[str]]) -> list[str]:
    return sorted({name for thread, names in calls.items() if thread & LOW_HALF in ids for name in names})


def _runtime_calls(trace: Path) -> dict[int, list[str]]:
    """Names of CUDA runtime and driver calls in a trace, by its number of the thread."""
    found: dict[int, set[str]] = {}
    for event in json.loads(trace.read_text())["traceEvents"]:
        if event.get("cat") in ("cuda_runtime", "cuda_driver"):
            found.setdefault(int(event["tid"]), set()).add(event["name"])
    return {thread: sorted(names) for thread, names in found.items()}
