"""The tests of this folder on newer versions of Slurm.

``python tests/slurm/versions.py [--release sid] [ARGUMENT OF PYTEST …]``. Debian's packages of a release are
unpacked into a folder, not installed, and the tests run inside it by chroot, with this environment bound in.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = ("trixie", "sid")
SLURM = "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge"
TOOLS = "bash dash coreutils util-linux sed grep gawk findutils procps hostname"
LIBRARIES = "libc-bin libstdc++6 libssl3 libffi8 zlib1g libbz2-1.0 liblzma5 libsqlite3-0"
"""What extension modules of a Python built elsewhere load."""
ALTERNATIVES = {"slurmctld": "slurmctld-wlm", "slurmd": "slurmd-wlm", "slurmstepd": "slurmstepd-wlm"}
ENTER = """\
set -e
cd {root}
for folder in {folders}; do
  mkdir -p ".$folder"
  mount --rbind "$folder" ".$folder"
done
mkdir -p proc
mount -t proc proc proc
exec chroot . /bin/sh -c {command}
"""


class CannotTest(Exception):
    """Why a release cannot be tested here."""


def call(*argv: str, **options: object) -> str:
    """Standard output of a command; raises :class:`CannotTest` with the last lines of its error."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise CannotTest(f"{shlex.join(argv)[:200]}: {done.stderr.strip()[-1000:]}")
    return str(done.stdout)


def check_machine() -> None:
    """Raise :class:`CannotTest` where something is missing that no package brings."""
    missing = [name for name in ("apt-get", "dpkg", "unshare", "chroot") if shutil.which(name) is None]
    if missing or os.geteuid() or not Path(KEYRING).is_file():
        raise CannotTest(f"needs root, apt-get, dpkg, unshare, chroot and {KEYRING}")
    if sys.base_prefix == "/usr":
        raise CannotTest("this Python belongs to the system; make .venv with another one (PYTHON=…)")


def unpack(suite: str, folder: Path) -> Path:
    """Download Slurm and what it needs from a Debian release, unpack it, and return the root."""
    root, done = folder / "root", folder / "unpacked"
    if done.is_file():
        return root
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "root"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n")
    apt = ["apt-get", "--quiet", "--yes", "--no-install-recommends", "--download-only"]
    for setting in (
        f"Dir::State::Lists={folder}/lists",
        f"Dir::State::status={folder}/status",
        f"Dir::Cache={folder}/cache",
        f"Dir::Etc::sourcelist={folder}/sources.list",
        "Dir::Etc::sourceparts=/nonexistent",
        "APT::Sandbox::User=root",
    ):
        apt += ["-o", setting]
    call(*apt, "update")
    call(*apt, "install", *f"{SLURM} {TOOLS} {LIBRARIES}".split())
    # Debian's /bin and the like are links into /usr, made by its installer.
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted((folder / "cache/archives").glob("*.deb")):
        unpacked = subprocess.Popen(["dpkg", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
        call("tar", "--extract", "--keep-directory-symlink", "--directory", str(root), stdin=unpacked.stdout)
    finish(root)
    done.touch()
    return root


def finish(root: Path) -> None:
    """Do by hand what the scripts of the packages do."""
    for name, target in ALTERNATIVES.items():
        for link in (path.with_name(name) for path in root.glob(f"usr/sbin/{target}")):
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    (root / "usr/bin/awk").unlink(missing_ok=True)
    (root / "usr/bin/awk").symlink_to("gawk")
    for name in ("passwd", "group", "hosts", "nsswitch.conf", "resolv.conf"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    call("chroot", str(root), "/sbin/ldconfig")


def enter(root: Path, *argv: str) -> list[str]:
    """Command that runs ``argv`` inside ``root``, with processes and mounts that end with it."""
    packages = [folder for folder in sys.path if folder.endswith("-packages")]
    folders = ["/sys", "/dev", "/tmp", sys.base_prefix, str(PROJECT), *packages]
    variables = [f"{name}={os.environ[name]}" for name in ("HOME", "LANG", "CI") if name in os.environ]
    path = f"PATH={PROJECT}/.venv/bin:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"
    command = f"cd {shlex.quote(str(PROJECT))} && exec env -i {shlex.join([path, *variables, *argv])}"
    script = ENTER.format(
        root=shlex.quote(str(root)), folders=shlex.join(folders), command=shlex.quote(command)
    )
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]


def test(suite: str, arguments: list[str]) -> tuple[str, int]:
    """Run the tests on Slurm of a release; its version with pytest's counts, and the exit status."""
    root = unpack(suite, PROJECT / ".slurm-versions" / suite)
    version = call(*enter(root, "slurmctld", "-V")).split()[-1]
    sys.stdout.write(f"== Slurm {version} (Debian {suite})\n")
    sys.stdout.flush()
    pytest = ["python", "-m", "pytest", "-m", "slurm", "-p", "no:cacheprovider"]
    log = ""
    with subprocess.Popen(enter(root, *pytest, *arguments), stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            log = line if re.search(r"\d+ (passed|failed|error)", line) else log
    counts = log.strip("= \n") or "no test ran"
    return f"Slurm {version} (Debian {suite}): {counts}", running.returncode


def main() -> int:
    """Test each release; 0 where all tests pass, 2 where a release cannot be tested."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", action="append", choices=SUITES, help="only this one; may be repeated")
    options, arguments = parser.parse_known_args()
    results = []
    try:
        check_machine()
        for suite in options.release or SUITES:
            results.append(test(suite, arguments or ["tests/slurm"]))
    except CannotTest as reason:
        sys.stderr.write(f"error: {reason}\n")
        return 2
    finally:
        sys.stdout.write("".join(f"{line}\n" for line, _ in results))
    return max(status for _, status in results)


if __name__ == "__main__":
    sys.exit(main())
