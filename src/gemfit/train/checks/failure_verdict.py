"""Which errors of an attempt would meet every further attempt: their outcome, and the way out.

Errors of a rank that only lost its peers are not among them: the first cause is in another rank.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist

from gemfit.errors import UserError
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.train.model.attention_checks import advice
from gemfit.train.model.out_of_memory import is_out_of_memory
from gemfit.train.trainer_view import SelfTestError

LESS_MEMORY = (
    "set batch.max_per_device_batch_size lower or model.activation_checkpointing to true, which changes "
    "nothing of what is trained, or choose a strategy that shards more (`gemfit estimate` lists what fits)"
)
MISUSES = ("ncclInvalidUsage", "ncclInvalidArgument", "Duplicate GPU", "no socket interface found")
"""What NCCL says of a set-up that no repetition makes valid."""
NCCL = "set NCCL_DEBUG=INFO to see what NCCL tries, NCCL_SOCKET_IFNAME to choose the network"


class FailureVerdict(NamedTuple):
    """How an attempt has ended, and why."""

    outcome: AttemptOutcome
    reason: str


def judge_failure(error: Exception, model: ModelRecipe, *, stepped: bool) -> FailureVerdict | None:
    """The verdict on ``error``; ``None`` where another attempt may succeed and nothing is known of the cause.

    ``stepped``: whether this attempt has done an optimizer step before it.
    """
    if isinstance(error, UserError | SelfTestError | FloatingPointError):
        return _fatal(str(error))
    if isinstance(error, ImportError):
        return _fatal(_import_failure(error, model))
    if _is_compiler_error(error):
        return _fatal(f"model.compile: {_first_line(error)}; set model.compile to false")
    if stepped:
        return None
    if is_out_of_memory(error):
        return _fatal(f"memory ran out before the first step was done: {_first_line(error)}; {LESS_MEMORY}")
    if "no kernel image is available" in str(error):
        return _fatal(f"torch {torch.__version__} is not built for this GPU: install a build that is")
    if model.attention == "varlen" and "flash" in str(error).lower():  # torch names its kernel, not varlen
        return _fatal(f"model.attention: varlen cannot be used: {_first_line(error)}; {advice('varlen')}")
    if isinstance(error, dist.DistBackendError):
        return _backend_failure(error)
    return None


def _fatal(reason: str) -> FailureVerdict:
    return FailureVerdict(AttemptOutcome.FATAL, reason)


def _import_failure(error: ImportError, model: ModelRecipe) -> str:
    missing = f"a package of the training cannot be imported ({_first_line(error)})"
    if not model.attention.startswith("flash_attention"):
        return f"{missing}; install it in the environment of the ranks, see `gemfit doctor`"
    return f"{missing}; {advice(model.attention)}"


def _backend_failure(error: Exception) -> FailureVerdict:
    text = str(error)
    known = next((line.strip() for line in text.splitlines() if any(word in line for word in MISUSES)), None)
    # Anything else may be a node or a network that another attempt does without.
    outcome = AttemptOutcome.CRASHED if known is None else AttemptOutcome.FATAL
    return FailureVerdict(outcome, f"the ranks cannot communicate: {known or _first_line(error)}; {NCCL}")


def _is_compiler_error(error: Exception) -> bool:
    modules = (cls.__module__ for cls in type(error).__mro__)
    return any(module.startswith(("torch._dynamo", "torch._inductor")) for module in modules)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
