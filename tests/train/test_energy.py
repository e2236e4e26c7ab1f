"""Energy is read from the counters of a machine, or not reported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gemfit.schemas.metrics_history import read_history
from gemfit.train.telemetry.energy import POWERCAP, RankEnergy, RaplCounters, total

if TYPE_CHECKING:
    from train.conftest import Launch


def counter(root: Path, number: int, name: str, microjoules: int) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(name + "\n")
    (folder / "max_energy_range_uj").write_text("1000000000\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


def test_processors_are_added_up_and_a_counter_that_began_again_too(tmp_path: Path) -> None:
    first = counter(tmp_path, 0, "package-0", 990_000_000)
    second = counter(tmp_path, 1, "package-1", 5_000_000)
    counter(tmp_path, 2, "psys", 0)
    packages = RaplCounters(tmp_path)
    counter(tmp_path, 2, "psys", 70_000_000)  # it holds the others
    first.write_text("20000000")
    second.write_text("7000000")
    packages.add()
    second.write_text("8000000")
    packages.add()
    assert packages.joules == pytest.approx(30 + 2 + 1)


def test_a_counter_that_cannot_be_read_counts_nothing_from_then_on(tmp_path: Path) -> None:
    path = counter(tmp_path, 0, "package-0", 1)
    packages = RaplCounters(tmp_path)
    path.unlink()
    packages.add()
    counter(tmp_path, 0, "package-0", 5)
    packages.add()
    assert packages.joules is None
    without = RaplCounters(tmp_path / "nothing")
    without.add()
    assert without.joules is None


def test_hosts_count_once_and_an_unknown_one_makes_the_sum_unknown() -> None:
    host, guest = RankEnergy(True, 10.0, "a", 1.0), RankEnergy(False, None, "b", 2.0)
    assert total([host, guest, host._replace(gpu_id="c"), guest]) == (20.0, 4.0)
    assert total([host, guest, host._replace(cpu=None), guest._replace(gpu=None)]) == (None, None)
    assert total([host._replace(gpu_id="", gpu=None)]) == (10.0, None)


@pytest.mark.dist
@pytest.mark.slow
def test_an_attempt_tells_its_energy_or_that_nothing_counts_it(launch: Launch) -> None:
    [record] = read_history(launch("ddp", 2).run.metrics_file).energy
    readable = RaplCounters(POWERCAP)
    readable.add()
    assert (record.cpu_joules is None) == (readable.joules is None)
    assert (record.attempt, record.step, record.gpu_joules) == (1, 6, None)
    assert record.seconds > 0
