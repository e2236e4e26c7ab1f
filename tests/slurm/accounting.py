"""Limits of accounts, QOS and partitions that bite, on a real Slurm with slurmdbd and MariaDB.

``python tests/slurm/accounting.py``; some minutes, needs root and apt-get. `gemfit preflight`, `submit` and
`status` meet each limit; ends with status 1 where one of them does not say in words what keeps the job.
"""

from __future__ import annotations

import argparse
import getpass
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from gemfit_launch.runs.local import free_port
from realslurm import Cluster, install, wait_until
from slurmruns import SITE, Bench, recipe_arguments

PACKAGES = ("mariadb-server", "slurmdbd")
REASON_SECONDS = 30.0
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""
PARAMETERS = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,limits,qos
EnforcePartLimits=NO
PartitionName=brief Nodes=ALL MaxTime=10
PartitionName=narrow Nodes=ALL MaxNodes=1
PartitionName=wide Nodes=ALL MinNodes=3
PartitionName=closed Nodes=ALL AllowAccounts=elsewhere
"""
ACCOUNTS = (
    ("add", "account", "lab", "Description=lab"),
    ("add", "qos", "tiny", "MaxWall=00:10:00", "Flags=DenyOnLimit"),
    ("add", "qos", "short", "MaxWall=00:10:00"),
    ("add", "qos", "narrow", "MaxTRESPerJob=node=1"),
    ("add", "qos", "small", "GrpTRES=cpu=2"),
    ("add", "qos", "one", "MaxSubmitJobsPerUser=1"),
    ("add", "user", "{user}", "Account=lab", "QOS=normal,tiny,short,narrow,small,one", "DefaultQOS=normal"),
)


@dataclass
class AccountingCluster(Cluster):
    """A cluster whose controller asks slurmdbd, with a MariaDB of its own."""

    ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))

    def start_controller(self) -> None:
        database, port = self.ports
        data, log = self.folder / "database", self.folder / "log" / "mariadb.log"
        user = getpass.getuser()
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}"],
            check=True,
            capture_output=True,
        )
        # Without grants: the server listens on 127.0.0.1, and lives for this program.
        self._spawn(
            "mariadbd",
            "mariadbd",
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={self.folder}/database.socket",
            f"--port={database}",
            "--bind-address=127.0.0.1",
            "--skip-grant-tables",
            "--skip-networking=0",
            f"--user={user}",
            f"--log-error={log}",
        )
        wait_until(lambda: _answers(database), 120, self._logs)
        conf = self.folder / "slurmdbd.conf"
        conf.write_text(
            SLURMDBD_CONF.format(folder=self.folder, port=port, database_port=database, user=user)
        )
        conf.chmod(0o600)
        self._spawn("slurmdbd", "slurmdbd", "-D")
        wait_until(lambda: _answers(port), 120, self._logs)
        self.manage("add", "cluster", "gemfit")
        for command in ACCOUNTS:
            self.manage(*(word.format(user=user) for word in command))
        super().start_controller()

    def manage(self, *command: str) -> None:
        self.call("sacctmgr", "--immediate", *command)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A site, and what the three commands say of a job of it on two nodes."""

    name: str
    site: Mapping[str, object]
    preflight: str = ""
    """What it finds wrong; empty where that cannot be known before."""
    refused: str = ""
    """By `gemfit submit`; empty where Slurm takes the job."""
    waits: str = ""
    """What `gemfit status` says."""


NEVER = "it never starts"
LIMITS = (
    Limit(
        name="account that does not exist",
        site={"account": "nope"},
        preflight="Invalid account",
        refused="Invalid account",
    ),
    Limit(
        name="QOS that the account lacks",
        site={"qos": "other"},
        preflight="Invalid qos",
        refused="Invalid qos",
    ),
    Limit(
        name="MaxWall of a QOS that refuses",
        site={"qos": "tiny", "time": "20"},
        preflight="policy",
        refused="policy",
    ),
    Limit(
        name="MaxWall of a QOS",
        site={"qos": "short", "time": "20"},
        waits=f"QOSMaxWallDurationPerJobLimit: {NEVER}: more time than the QOS allows",
    ),
    Limit(
        name="nodes per job of a QOS",
        site={"qos": "narrow"},
        waits=f"QOSMaxNodePerJobLimit: {NEVER}: more nodes than the QOS allows",
    ),
    Limit(
        name="GrpTRES of a QOS",
        site={"qos": "small"},
        waits="QOSGrpCpuLimit: all jobs of the QOS together have as many CPUs as it allows; one that alone "
        "asks for more never starts",
    ),
    Limit(
        name="MaxSubmitJobs: the first",
        site={"qos": "one"},
        waits="",
    ),
    Limit(name="MaxSubmitJobs: one more", site={"qos": "one"}, preflight="policy", refused="policy"),
    Limit(
        name="MaxTime of a partition",
        site={"partition": "brief", "time": "20"},
        preflight="20 is longer than brief allows",
        waits=f"PartitionTimeLimit: {NEVER}",
    ),
    Limit(
        name="MaxNodes of a partition",
        site={"partition": "narrow"},
        preflight="2 requested, and narrow allows 1 per job",
        waits=f"PartitionNodeLimit: {NEVER}",
    ),
    Limit(
        name="MinNodes of a partition",
        site={"partition": "wide"},
        preflight="wide takes jobs of 3 nodes or more",
        waits=f"PartitionNodeLimit: {NEVER}",
    ),
    Limit(
        name="AllowAccounts of a partition",
        site={"partition": "closed"},
        preflight="closed does not accept lab; it accepts elsewhere",
        waits=f"{NEVER}: the partition does not accept this account",
    ),
)


def carry_out(cluster: Cluster, bench: Bench, limit: Limit) -> list[str]:
    """What is missing in the words of the three commands."""
    name = re.sub(r"\W+", "-", limit.name)
    place = bench.folder / f"{name}.site.yaml"
    place.write_text(json.dumps(SITE | {"account": "lab", **limit.site}))
    asked = [*recipe_arguments({"length.max_steps": "1000"}), "--site", str(place), "--nodes", "2"]
    found = [*_missing("preflight", limit.preflight, _gemfit(cluster, bench, "preflight", *asked, "--json"))]
    code, said = _gemfit(cluster, bench, "submit", *asked, "--run", name)
    found += _missing("submit", limit.refused, (code, said))
    if limit.refused:
        return found if code == 2 else [*found, f"submit ends with status {code}"]
    if limit.waits:
        # A reason may be that the scheduler has not looked yet.
        deadline = time.monotonic() + REASON_SECONDS
        while missing := [
            *_missing("status", limit.waits, _gemfit(cluster, bench, "status", name, "--json"))
        ]:
            if time.monotonic() > deadline:
                return [*found, *missing]
    return found


def _missing(verb: str, wanted: str, answer: tuple[int, str]) -> Iterator[str]:
    said = " ".join(answer[1].split())
    if wanted not in said:
        yield f"{verb} does not say {wanted!r}: {said[-1500:]}"


def _gemfit(cluster: Cluster, bench: Bench, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gemfit_launch.cli", *arguments],
        cwd=bench.folder,
        env=cluster.environment | {"GEMFIT_CACHE": str(bench.folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


HEAD = """\
# Limits of accounts, QOS and partitions on a real Slurm

Made by `python tests/slurm/accounting.py`, a part of `make slurm-matrix` ({version}, slurmdbd, MariaDB,
AccountingStorageEnforce=associations,limits,qos, EnforcePartLimits=NO). A job of two nodes and four CPUs
meets each limit; in the columns stands what the command has to say, words of Slurm included.

| limit | `gemfit preflight` | `gemfit submit` | `gemfit status` |
|---|---|---|---|
"""


def row(limit: Limit) -> str:
    submitted = f"refused: {limit.refused}" if limit.refused else "submitted"
    return f"| {limit.name} | {limit.preflight} | {submitted} | {limit.waits} |\n"


def main() -> int:
    """Print a line for each limit; 1 where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table into this file if nothing is missing")
    options = parser.parse_args()
    install()
    install(("mariadbd", "slurmdbd"), PACKAGES)
    failed = False
    # A job of the last limit may still write when the cluster has ended.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ports = free_port(), free_port()
        home = Path(folder) / "cluster"
        parameters = PARAMETERS.format(port=ports[1], folder=home)
        cluster = AccountingCluster(home, parameters=parameters, ports=ports)
        try:
            cluster.start()
            bench = Bench.prepare(cluster, Path(folder))
            version = cluster.call("sinfo", "--version").strip()
            for limit in LIMITS:
                problems = carry_out(cluster, bench, limit)
                failed = failed or bool(problems)
                sys.stdout.write(f"{limit.name}: {'ok' if not problems else ''}\n")
                sys.stdout.write("".join(f"  PROBLEM: {text}\n" for text in problems))
                sys.stdout.flush()
        finally:
            cluster.stop()
    if options.out and not failed:
        options.out.write_text(HEAD.format(version=version) + "".join(map(row, LIMITS)))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
