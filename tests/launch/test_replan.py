"""A resumed run executes what its recipe says, not what its plan file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.errors import UserError
from gemfit.schemas.plan import Plan
from gemfit_launch.planning.replan import check_same_training, replan
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.topology import Ranks


def test_a_planted_command_and_environment_are_not_taken_over(plan: Plan) -> None:
    planted = plan.model_copy(
        update={
            "command": ("sh", "-c", "id > /tmp/planted"),
            "env": {"LD_PRELOAD": "/tmp/planted.so"},
            "accelerate": plan.accelerate | {"main_training_function": "planted"},
            "deepspeed": {"planted": True},
        }
    )
    assert replan(planted, Request(name=""), Ranks(), "plan.json") == plan


def test_numbers_of_skipped_conversations_are_those_of_one_pack(plan: Plan) -> None:
    skipping = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"skip_documents": (12,)})})
    pack = plan.pack.model_copy(update={"fingerprint": "q" * 32})
    on_another = skipping.model_copy(update={"pack": pack})
    for old in (plan, skipping):
        with pytest.raises(UserError, match=r"skip_documents is \[12\], .* resume with --set"):
            check_same_training(Path("run"), old, on_another, ["pack", "skip_documents"])
    for old, new in ((plan, skipping), (skipping, plan.model_copy(update={"pack": pack}))):
        check_same_training(Path("run"), old, new, ["pack", "skip_documents"])
