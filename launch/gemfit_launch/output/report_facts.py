"""Facts of a run that only the launcher has: state, GPU, FLOPs per token, predicted memory, outcomes."""

from __future__ import annotations

from collections.abc import Sequence

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.goodput import Goodput
from gemfit.schemas.metrics import HardwareRecord, MemoryRecord, Record
from gemfit.schemas.plan import Plan
from gemfit.schemas.report_facts import Ending, RunFacts
from gemfit.summary.attempts import summarize_attempts
from gemfit.summary.goodput import measure_goodput
from gemfit_launch.predict.configuration import configuration_of
from gemfit_launch.predict.flops import model_flops
from gemfit_launch.predict.forecast import make_forecast
from gemfit_launch.predict.gpu_specs import GpuSpec, guess_gpu
from gemfit_launch.predict.shape_lookup import find_shape
from gemfit_launch.runs.metrics_tail import Tail
from gemfit_launch.slurm.cluster.job_status import read_statuses
from gemfit_launch.slurm.records.job_attempts import read_attempts


def read_facts(run: RunDir, gpu: GpuSpec | None, price: float | None = None) -> RunFacts:
    """Of one run; ``gpu`` is used where neither the run nor its site names one.

    ``price`` is that of one GPU-hour.
    """
    plan = run.plan()
    records = Tail(run.metrics_file).read()
    used = _gpu_of(records, plan) or gpu
    forecast = make_forecast(plan, gpu=used)
    memory = forecast.memory if _is_measured(plan, run, records) else None
    flops, why_not = _flops_per_token(plan)
    return RunFacts(
        state=read_statuses([run])[0].state,
        gpu=used.name if used else None,
        peak_flops=used.peak_flops if used and plan.topology.device == "cuda" else None,
        flops_per_token=flops,
        no_mfu=_no_mfu(plan, used, why_not),
        gpu_bytes=memory.gpu_bytes if memory else None,
        host_bytes=sum(part.bytes for part in memory.host_rank) if memory else None,
        price=price,
        endings=tuple(read_endings(run)),
    )


def _is_measured(plan: Plan, run: RunDir, records: Sequence[Record]) -> bool:
    """Whether the last measured memory is that of ``plan``, and not of one before a resume."""
    measured = [record.attempt for record in records if isinstance(record, MemoryRecord)]
    return not measured or run.attempt_record(measured[-1]).plan_digest in (plan.digest, "")


def _no_mfu(plan: Plan, gpu: GpuSpec | None, why_not: str | None) -> str:
    if plan.topology.device == "cpu":
        return "the run is on CPUs, whose peak FLOPs are unknown"
    if gpu is None:
        return "the GPU is unknown; name it with --gpu"
    return why_not or ""


def _gpu_of(records: Sequence[Record], plan: Plan) -> GpuSpec | None:
    """The GPU that the run recorded last, else the one that its site names."""
    kinds = [plan.site.gpu_kind] if plan.site is not None and plan.site.gpu_kind is not None else []
    for record in records:
        if isinstance(record, HardwareRecord):
            kinds += [one.name for one in record.gpus]
        elif isinstance(record, MemoryRecord) and record.gpu_name:
            kinds.append(record.gpu_name)
    return guess_gpu(kinds[-1]) if kinds else None


def _flops_per_token(plan: Plan) -> tuple[float | None, str | None]:
    try:
        found = find_shape(plan.recipe.model)
    except UserError as error:
        return None, str(error)
    if found.shape is None:
        return None, found.why_not
    return model_flops(configuration_of(plan, found.shape), with_embedding=True), None


def read_endings(run: RunDir) -> list[Ending]:
    """Outcomes that Slurm jobs have recorded."""
    return [
        Ending(
            attempt=one.end.attempt,
            outcome=one.end.outcome,
            reason=one.end.reason,
            nodes=(one.end.node,) if one.end.node else (),
        )
        for one in read_attempts(run)
        if one.end is not None
    ]


def read_goodput(run: RunDir, state: str, price: float | None) -> Goodput | None:
    """Goodput of a run in this state; ``None`` before it has any record. Reads all of its metrics."""
    records = Tail(run.metrics_file).read()
    attempts = summarize_attempts(run, records, state=state, endings=read_endings(run))
    return measure_goodput(run, records, attempts, price)
