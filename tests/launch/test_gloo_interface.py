"""Two machines whose own names resolve to loopback: gloo binds to the interface between them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("gloo_rank.py")
HOST = "10.77.31.1"
NAMES = tuple(f"gemfit-{os.getpid()}-{rank}" for rank in (0, 1))


@pytest.fixture
def two_networks() -> Iterator[None]:
    """Two network namespaces with one link; skipped where this process may not make them."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("network namespaces need root, iproute2 and unshare")
    link = [f"link add wire0 netns {NAMES[0]} type veth peer name wire1 netns {NAMES[1]}"]
    for rank, name in enumerate(NAMES):
        link += [
            f"-n {name} addr add 10.77.31.{rank + 1}/24 dev wire{rank}",
            f"-n {name} link set wire{rank} up",
            f"-n {name} link set lo up",
        ]
    try:
        for words in (*(f"netns add {name}" for name in NAMES), *link):
            done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"ip {words}: {done.stderr.strip()}")
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def start(rank: int, tmp_path: Path, choose: bool) -> subprocess.Popen[bytes]:
    """A rank in its namespace, on a machine with a name of its own at 127.0.1.1, as on Debian."""
    hosts = tmp_path / f"hosts{rank}"
    hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 machine{rank}\n")
    inside = f'hostname machine{rank} && mount --bind "{hosts}" /etc/hosts && exec "$@"'
    how = "choose" if choose else "default"
    rank_argv = [sys.executable, str(SCRIPT), str(rank), HOST, how, str(tmp_path / f"result{rank}")]
    return subprocess.Popen(
        [
            *("ip", "netns", "exec", NAMES[rank]),
            *("unshare", "--uts", "--mount", "bash", "-c", inside, "rank", *rank_argv),
        ],
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.parametrize("choose", [True, False])
@pytest.mark.usefixtures("two_networks")
def test_gloo_meets_over_the_interface_between_the_machines(tmp_path: Path, choose: bool) -> None:
    ranks = [start(rank, tmp_path, choose) for rank in (0, 1)]
    try:
        for rank in ranks:
            rank.wait(120)
    finally:
        for rank in ranks:
            rank.kill()
    results = [(tmp_path / f"result{rank}").read_text() for rank in (0, 1)]
    if choose:
        assert results == ["wire0 2", "wire1 2"]
    else:  # or this test would prove nothing
        assert any(result.startswith("failed") for result in results)
