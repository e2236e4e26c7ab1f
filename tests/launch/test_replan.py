"""A resumed run executes what its recipe says, not what its plan file says."""

from __future__ import annotations

from gemfit.schemas.plan import Plan
from gemfit_launch.planning.replan import replan
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
