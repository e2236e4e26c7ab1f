"""Compute capabilities of this machine's GPUs, and plans that it cannot train."""

from __future__ import annotations

import pytest

from fake_nvidia_smi import FakeNvidiaSmi, nvidia_smi
from gemfit.errors import UserError
from gemfit.schemas.plan import Topology
from gemfit_launch.planning.compute_capability import CAPABILITIES, capabilities_here, capability_here
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.this_machine import check_bfloat16
from gemfit_launch.predict.gpu_specs import GPU_SPECS

__all__ = ["nvidia_smi"]
CARD = Request(name="gemma3/1b-reference").recipe()
H100_AND_T4 = "0, GPU-h, 9.0\n1, GPU-t, 7.5\n"


def test_every_gpu_has_a_compute_capability() -> None:
    assert CAPABILITIES.keys() == GPU_SPECS.keys()


@pytest.mark.parametrize(
    ("output", "capability"),
    [
        ("0, GPU-a, 9.0\n1, GPU-b, 8.6\n", (8, 6)),
        ("0, GPU-a, 12.1\n", (12, 1)),
        ("0, 54fb5f3c, [N/A]\n", None),
        ("0, GPU-a, 9.0\n1, GPU-b, [N/A]\n", None),
        ("", None),
    ],
)
def test_the_lowest_capability_of_the_machine_counts(
    nvidia_smi: FakeNvidiaSmi, output: str, capability: tuple[int, int] | None
) -> None:
    nvidia_smi.prints(output)
    assert capability_here() == capability


@pytest.mark.parametrize(
    ("output", "visible", "order", "found"),
    [
        (H100_AND_T4, "GPU-h", "", [(9, 0)]),
        (H100_AND_T4, "0", "PCI_BUS_ID", [(9, 0)]),
        (H100_AND_T4, "1", "PCI_BUS_ID", [(7, 5)]),
        (H100_AND_T4, "0", "", None),
        ("0, GPU-a, 9.0\n1, GPU-b, 9.0\n", "1", "", [(9, 0), (9, 0)]),
    ],
)
def test_of_several_kinds_those_count_that_are_visible(
    nvidia_smi: FakeNvidiaSmi,
    monkeypatch: pytest.MonkeyPatch,
    output: str,
    visible: str,
    order: str,
    found: list[tuple[int, int]] | None,
) -> None:
    nvidia_smi.prints(output)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    assert capabilities_here() == found


def test_without_a_driver_the_capability_is_not_known(nvidia_smi: FakeNvidiaSmi) -> None:
    nvidia_smi.prints("Failed to initialize NVML\n", status=9)
    assert capability_here() is None


@pytest.mark.parametrize(
    ("capabilities", "ranks", "refused"),
    [
        ([(9, 0)], 1, False),
        ([(7, 5)], 1, True),
        ([(7, 0)] * 8, 8, True),
        ([(8, 6), (6, 1)], 1, False),
        ([(8, 6), (6, 1)], 2, True),
        (None, 1, False),
    ],
)
def test_emulated_bfloat16_is_refused(
    capabilities: list[tuple[int, int]] | None, ranks: int, refused: bool
) -> None:
    topology = Topology(nodes=1, ranks_per_node=ranks, device="cuda")
    float32 = CARD.model_copy(update={"model": CARD.model.model_copy(update={"dtype": "float32"})})
    check_bfloat16(float32, topology, capabilities)
    if not refused:
        check_bfloat16(CARD, topology, capabilities)
        return
    with pytest.raises(UserError, match=r"compute capability 8\.0 or more.*model\.dtype=float32"):
        check_bfloat16(CARD, topology, capabilities)
