"""Pack wheels for a machine with torch and without a network: at most 64 MiB, for `--wheels` of the check.

    python benchmarks/gpu_check/pack_wheels.py [--present FREEZE.txt] [--cuda 130] --out FOLDER

FREEZE.txt is `pip freeze` of that machine: what is there in a version that gemfit accepts is left out;
without it, the large packages that come with most installations of torch are. torch and its own libraries
are never packed. Packages without wheels are built here if they are pure Python (deepspeed, without its
operators); bitsandbytes keeps the library of one CUDA version. Run it where there is a network.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 64 * 2**20
OF_TORCH = re.compile(r"^(torch|triton|nvidia-.*|cuda-.*|setuptools|pip|wheel)$")
USUAL = (
    "numpy scipy numba llvmlite pyarrow pandas sympy networkx scikit-learn pillow matplotlib fonttools "
    "contourpy kiwisolver tensorboard tensorboard-data-server grpcio protobuf"
)
"""Large packages that are assumed to be there where no list is given."""
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17, 12, 5)]


def main() -> None:
    """Resolve, download or build, shrink, and weigh."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--present", type=Path, help="pip freeze of the GPU machine")
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--cuda", default="130", help="of its torch, as 130 for 13.0")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if list(options.out.glob("*.whl")):
        sys.exit(f"{options.out}: has wheels already; remove them, or give another folder")
    report = _resolved()
    present = _present(options.present.read_text() if options.present else "\n".join(USUAL.split()))
    options.out.mkdir(parents=True, exist_ok=True)
    for name, version in _missing(report, present):
        _fetch(f"{name}=={version}", options.python, options.out)
    for wheel in options.out.glob("bitsandbytes-*.whl"):
        _keep_one_cuda(wheel, options.cuda)
    sizes = {path.name: path.stat().st_size for path in options.out.glob("*.whl")}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:10]:
        print(f"{size / 2**20:7.1f} MiB {name}")
    total = sum(sizes.values())
    print(f"{total / 2**20:7.1f} MiB in {len(sizes)} wheels: {options.out}")
    if total > LIMIT:
        sys.exit(f"more than {LIMIT >> 20} MiB: give --present with what the machine has")


def _resolved() -> list[dict[str, Any]]:
    """Metadata of everything that gemfit with its extras and TRL need, by pip's own resolver."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "report.json"
        wanted = [f"{ROOT}[train,qlora]", "trl"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        pip += ["--constraint", str(ROOT / "constraints.txt")]  # the versions that are tested
        subprocess.run([*pip, "--report", str(out), *wanted], check=True)
        return [item["metadata"] for item in json.loads(out.read_text())["install"]]


def _present(freeze: str) -> dict[str, str | None]:
    """Versions by name; ``None`` where only the name is known, which then counts as accepted."""
    lines = (line.split("#")[0].split("@")[0].strip() for line in freeze.splitlines())
    pairs = (line.partition("==") for line in lines if line)
    return {canonicalize_name(name.strip()): version or None for name, _, version in pairs}


def _missing(report: list[dict[str, Any]], present: dict[str, str | None]) -> list[tuple[str, str]]:
    wanted: dict[str, list[Requirement]] = {}
    for text in (text for item in report for text in item.get("requires_dist", [])):
        found = Requirement(text)
        if "extra" not in str(found.marker or ""):
            wanted.setdefault(canonicalize_name(found.name), []).append(found)
    gemfit = next(item for item in report if item["name"] == "gemfit")
    for found in map(Requirement, gemfit.get("requires_dist", [])):
        wanted.setdefault(canonicalize_name(found.name), []).append(found)

    def accepted(name: str) -> bool:
        if name not in present:
            return False
        version = present[name]
        return version is None or all(r.specifier.contains(version, True) for r in wanted.get(name, []))

    names = {canonicalize_name(item["name"]): item["version"] for item in report}
    return sorted(
        (name, version)
        for name, version in names.items()
        if name != "gemfit" and not OF_TORCH.match(name) and not accepted(name)
    )


def _fetch(requirement: str, python: str, out: Path) -> None:
    """The wheel for the other machine; one built here where there is none and it is pure Python."""
    pip = [sys.executable, "-m", "pip"]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    foreign = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    download = [*pip, "download", "--quiet", "--no-deps", *foreign, "--dest", str(out), requirement]
    if subprocess.run(download, capture_output=True, check=False).returncode == 0:
        return
    build = [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), requirement]
    subprocess.run(build, env=os.environ | {"DS_BUILD_OPS": "0"}, check=True)
    name = canonicalize_name(requirement.partition("==")[0]).replace("-", "_")
    if not list(out.glob(f"{name}-*-none-any.whl")):
        sys.exit(f"{requirement}: has no wheel for Python {python} and is not pure Python")


def _keep_one_cuda(wheel: Path, cuda: str) -> None:
    """Leave the libraries of other CUDA versions out of bitsandbytes; pip does not miss them."""
    smaller = wheel.with_suffix(".smaller")
    other = re.compile(rf"libbitsandbytes_(cuda(?!{cuda}\.)|rocm|xpu|hip)")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            if not other.search(item.filename):
                text = old.read(item)
                if item.filename.endswith("/RECORD"):
                    text = b"".join(line for line in text.splitlines(True) if not other.search(line.decode()))
                new.writestr(item.filename, text)
    smaller.rename(wheel)


if __name__ == "__main__":
    main()
