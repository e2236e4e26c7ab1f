"""A real Slurm on this machine: munge, a controller and four nodes, in a folder and on ports of its own.

Starts in some five seconds. Each process is ended by its own id; nothing of a system-wide Slurm is used.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NODES = 4
KILL_WAIT_SECONDS = 10
PROGRAMS = ("slurmctld", "slurmd", "munged", "srun")
PACKAGES = ("slurm-wlm", "munge")

CONF = """\
ClusterName=gemfit
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,defer
ReturnToService=2
KillWait={kill_wait}
MinJobAge={min_job_age}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{parameters}
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports}] CPUs=4 RealMemory=4000 Gres=gpu:2
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=lowgrace Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=lowcancel Nodes=ALL PriorityTier=1 PreemptMode=CANCEL GraceTime=0
PartitionName=lowshort Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE DefaultTime=3
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""
GRES = "NodeName=n[1-{nodes}] Name=gpu Count=2 File=/dev/tty[1-2]\n"


class NoSlurm(Exception):
    """Why there can be no cluster here."""


def install(programs: Sequence[str] = PROGRAMS, packages: Sequence[str] = PACKAGES) -> None:
    """Make sure of ``programs`` by Debian's ``packages``; ``NoSlurm`` where that cannot be done."""
    wanted = [name for name in programs if _which(name) is None]
    if not wanted:
        return
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") is None or (root and shutil.which("sudo") is None):
        raise NoSlurm(f"{', '.join(wanted)} are missing, and only root with apt-get can install them")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        done = subprocess.run(
            [*root, "apt-get", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NoSlurm(f"apt-get {arguments[0]}: {done.stderr.strip()}")


@dataclass
class Cluster:
    """A running cluster, and the commands to use it."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    parameters: str = ""
    min_job_age: int = 600
    controller_port: int = 0
    first_node_port: int = 0

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a user at the login node of this cluster."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))
        }
        return environment | {"SLURM_CONF": str(self.conf)}

    def call(self, *argv: str, check: bool = True, cwd: Path | None = None) -> str:
        """Run a command there; what it printed."""
        done = subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, check=False, cwd=cwd, timeout=120
        )
        assert done.returncode == 0 or not check, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def job(self, number: int) -> dict[str, str]:
        """What the controller knows of a job; empty once it has forgotten it."""
        shown = self.call("scontrol", "show", "job", str(number), "--oneliner", check=False)
        return dict(part.split("=", 1) for part in shown.split() if "=" in part)

    def state(self, number: int) -> str:
        return self.job(number).get("JobState", "UNKNOWN")

    def set_parameters(self, parameters: str) -> None:
        """Change lines of the configuration, such as ``SlurmctldParameters=…``, and let it be read anew."""
        self.parameters = parameters
        self._write_conf()
        self.call("scontrol", "reconfigure")

    def start(self) -> None:
        for name in ("state", "log", *(f"spool/n{node}" for node in range(1, NODES + 1))):
            (self.folder / name).mkdir(parents=True)
        self.controller_port, self.first_node_port = _free_ports()
        self._write_conf()
        (self.folder / "gres.conf").write_text(GRES.format(nodes=NODES))
        self._start_munge()
        self.start_controller()
        for node in range(1, NODES + 1):
            self.start_node(f"n{node}")
        wait_until(self._all_idle, 30, lambda: self._logs())

    def start_controller(self) -> None:
        self._spawn("slurmctld", "slurmctld", "-D", "-f", str(self.conf))

    def kill_controller(self) -> None:
        controller = self.processes.pop("slurmctld")
        controller.kill()
        controller.wait()

    def start_node(self, name: str) -> None:
        self._spawn(name, "slurmd", "-D", "-N", name, "-f", str(self.conf))

    def stop(self) -> None:
        """End jobs, then every daemon that was started here, by its id."""
        self.call("scancel", f"--user={getpass.getuser()}", check=False)
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes.values()):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def _write_conf(self) -> None:
        last = self.first_node_port + NODES - 1
        text = CONF.format(
            host=socket.gethostname(),
            user=getpass.getuser(),
            folder=self.folder,
            controller_port=self.controller_port,
            ports=f"{self.first_node_port}-{last}",
            nodes=NODES,
            kill_wait=KILL_WAIT_SECONDS,
            min_job_age=self.min_job_age,
            parameters=self.parameters,
        )
        self.conf.write_text(text)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._spawn(
            "munged",
            "munged",
            "--foreground",
            "--force",  # the folder of a test lies below /tmp, which everybody may write to
            f"--socket={self.folder}/munge.socket",
            f"--key-file={key}",
            f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/log/munged.log",
            f"--seed-file={self.folder}/munged.seed",
        )
        wait_until(lambda: (self.folder / "munge.socket").exists(), 10, lambda: self._logs())

    def _spawn(self, name: str, program: str, *arguments: str) -> None:
        path = _which(program)
        assert path is not None, f"{program} is not installed"
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [path, *arguments], env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def _all_idle(self) -> bool:
        return self.call("sinfo", "-h", "-p", "low", "-o", "%t %D", check=False).strip() == f"idle {NODES}"

    def _logs(self) -> str:
        texts = [f"== {path.name}\n{path.read_text()[-2000:]}" for path in (self.folder / "log").iterdir()]
        return "\n".join(texts)


@contextmanager
def running_cluster(folder: Path, **options: object) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts; ``NoSlurm`` where there can be none."""
    install()
    cluster = Cluster(folder, **options)  # type: ignore[arg-type]
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def wait_until(
    reached: Callable[[], object], seconds: float, explain: Callable[[], str] = lambda: ""
) -> None:
    """Return when ``reached`` says so; after ``seconds`` it is a failure, with an explanation."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"not reached in {seconds} seconds\n{explain()}"
        time.sleep(0.25)


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_ports() -> tuple[int, int]:
    """A port for the controller, and the first of a free range for the nodes."""
    for start in range(26800 + os.getpid() % 1000 * 5, 32000, 5):
        if all(_is_free(port) for port in range(start, start + NODES + 1)):
            return start, start + 1
    raise NoSlurm("no free ports between 26800 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
