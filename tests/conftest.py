"""Shared by all tests: golden files, and a cache that is not the user's."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from gemfit.core.available_cores import available_cores
from rank_server import RankServer
from scheduling import SLURM, OneSlurm

# How long an example takes says something about the machine, which may be busy, and not about the code.
settings.register_profile("gemfit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gemfit")

# A shell starts what it puts into the background with SIGINT ignored, and that is inherited: tests which
# interrupt a process of theirs would wait in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
PROJECT = Path(__file__).parents[1]

# Models of tests gain nothing from a second thread, and processes whose threads wait for one another lose.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# One cache of compiled code for all processes of all test sessions, whatever cache of packs they use.
os.environ.setdefault("NUMBA_CACHE_DIR", str(PROJECT / ".pytest_cache" / "numba"))
Golden = Callable[[str, str], None]

# Until all tests are collected: what is imported for them is no garbage.
gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Write golden files instead of comparing.")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process has the tests on Slurm and mostly waits, others wait for ranks: twice as many as cores."""
    return available_cores() * 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneSlurm | None:
    return OneSlurm(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Processes that share the tests begin to collect at different folders.

    Each finds most files with their assertions rewritten by another one.
    """
    report = yield
    worker = getattr(collector.config, "workerinput", None)
    if worker is not None and collector.path == TESTS and isinstance(collector, pytest.Directory):
        first = len(report.result) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
        report.result = [*report.result[first:], *report.result[:first]]
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Processes that share the tests begin with those on Slurm and slow files: none is left for the end."""
    if hasattr(config, "workerinput"):  # in one of several processes
        slow = {item.path for item in items if item.get_closest_marker("slow")}

        def place(item: pytest.Item) -> tuple[bool, bool, Path]:
            return not item.nodeid.startswith(f"{SLURM}/"), item.path not in slow, item.path

        items.sort(key=place)


def pytest_collection_finish() -> None:
    """What has been imported is no garbage: full collections need not visit it again and again."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with the checked-in file of this name; ``--update-golden`` writes the file."""
    update = bool(request.config.getoption("--update-golden"))

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.is_file(), f"{path} is missing; make it with pytest --update-golden"
        assert text == path.read_text(), f"{path} differs; look at it, then pytest --update-golden"

    return compare


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Packs that tests build go to a folder of the test session."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("GEMFIT_CACHE", str(cache))
        yield cache


@pytest.fixture(scope="session")
def rank_server() -> Iterator[RankServer]:
    server = RankServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def measure(rank_server: RankServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """What a script prints as JSON, from its path below the project; a bad ending fails with its words."""

    def run(script: str, *options: str, timeout_seconds: float) -> Any:
        folder = tmp_path_factory.mktemp("measured")
        output, errors = folder / "output", folder / "errors"
        path = PROJECT / script
        code = rank_server.run(
            path, *options, "--json", output=output, errors=errors, timeout_seconds=timeout_seconds
        )
        assert code == 0, errors.read_text()[-4000:] + output.read_text()[-4000:]
        return json.loads(output.read_text())

    return run
