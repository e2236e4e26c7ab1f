"""The image of Docker and of Apptainer, and the task of SkyPilot: what they name exists, and they agree."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gemfit import __version__
from gemfit.schemas.site import SECRET_VALUE
from gemfit_launch.cli import main
from gemfit_launch.slurm.sites.load import load_site

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples/containers"
DOCKER = (FOLDER / "Dockerfile").read_text()
APPTAINER = (FOLDER / "apptainer.def").read_text()
INSTALL = (FOLDER / "install.sh").read_text()
SKY = YAML(typ="safe").load((ROOT / "examples/skypilot.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN_HOME = "/opt/gemfit"


def copied_by_docker() -> dict[str, str]:
    """Source and target of every COPY, the target relative to the working folder."""
    found = {}
    for words in re.findall(r"^COPY (.+)$", DOCKER, re.MULTILINE):
        *sources, target = words.split()
        for source in sources:
            found[source] = source if target == "./" else target.removeprefix("./")
    return found


def copied_by_apptainer() -> dict[str, str]:
    lines = re.findall(r"^%files\n((?:    .+\n)+)", APPTAINER, re.MULTILINE)[0].splitlines()
    return {source: target.removeprefix(f"{OWN_HOME}/") for source, target in map(str.split, lines)}


def needed_by_the_wheel(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    passed: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **options: passed.update(options))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    roots = {folder.partition("/")[0] for folder in passed["package_dir"].values()}
    return {*roots, "setup.py", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]}


def test_both_images_hold_what_the_wheel_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = copied_by_docker()
    assert copied == copied_by_apptainer()
    assert f"WORKDIR {OWN_HOME}\nCOPY" in DOCKER
    assert f"cd {OWN_HOME}\n" in APPTAINER
    extra = {"constraints.txt", "examples/containers/install.sh"}
    assert set(copied) == needed_by_the_wheel(monkeypatch) | extra
    assert all((ROOT / source).exists() for source in copied)


def test_docker_is_given_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {line[1:] for line in rules if line.startswith("!")} - {"examples"}
    assert allowed == {source.replace("/install.sh", "") for source in copied_by_docker()}
    assert rules.index("!examples") < rules.index("examples/*") < rules.index("!examples/containers")


def test_both_images_have_the_python_of_continuous_integration() -> None:
    bases = {re.findall(r"^FROM (\S+)$", DOCKER, re.MULTILINE)[0]}
    bases |= {re.findall(r"^From: (\S+)$", APPTAINER, re.MULTILINE)[0]}
    assert len(bases) == 1
    version = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+", bases.pop())
    assert version is not None
    tested = re.findall(r'python-version: "(.+)"', (ROOT / ".github/workflows/ci.yml").read_text())
    assert [version[1]] == tested
    assert f"--python {version[1]} " in SKY["setup"]


@pytest.mark.parametrize("text", [INSTALL, SKY["setup"]], ids=["image", "sky"])
def test_every_package_that_is_asked_for_is_pinned(text: str) -> None:
    (found,) = re.findall(r"--constraint constraints\.txt '\.\[(.+)\]'", text)
    extras = found.split(",")
    assert "train" in extras
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {normalized(line) for line in lines if "==" in line}
    asked = [*PROJECT["dependencies"]]
    for extra in extras:
        asked += PROJECT["optional-dependencies"][extra]
    assert {normalized(line) for line in asked} <= pinned


def normalized(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def test_both_images_run_the_same_installation_and_start_gemfit() -> None:
    assert "RUN sh install.sh\n" in DOCKER
    assert "    sh install.sh\n" in APPTAINER
    assert 'ENTRYPOINT ["gemfit"]' in DOCKER
    assert '    exec gemfit "$@"' in APPTAINER
    users = re.findall(r"^USER (\w+)$", DOCKER, re.MULTILINE)
    assert users == ["gemfit"]
    assert DOCKER.index("USER gemfit") > DOCKER.rindex("RUN ")


def test_the_image_overrides_no_variable_of_a_site_and_holds_no_secret() -> None:
    """Under pyxis the environment of the image wins: `HF_HOME` there would hide what was fetched."""
    in_docker = re.findall(r"^ENV (\w+)=", DOCKER, re.MULTILINE)
    in_apptainer = re.findall(r"^    export (\w+)=", APPTAINER, re.MULTILINE)
    assert in_docker == in_apptainer == ["PYTHONNOUSERSITE"]
    texts = [path.read_text() for path in [*FOLDER.iterdir(), ROOT / "examples/skypilot.yaml"]]
    assert len(texts) > 4
    assert not any(SECRET_VALUE.search(text) for text in texts)


def test_the_example_site_names_the_image_and_a_python_that_it_has() -> None:
    site = load_site("container-cluster")
    assert site.container is not None
    assert f"apptainer build --force dist/{Path(site.container.image).name} " in build_script()
    assert site.python == "python3"


def build_script() -> str:
    return (FOLDER / "build.sh").read_text()


def build(tmp_path: Path, *arguments: str, answering: tuple[str, ...], **env: str) -> Any:
    """Run build.sh in the checkout with commands that record their arguments; those not named fail."""
    for name in ("docker", "podman", "apptainer"):
        command = tmp_path / name
        code = 0 if name in answering else 1
        command.write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >>"{tmp_path}/calls"\nexit {code}\n')
        if name in answering or name != "apptainer":  # docker may be there without its service
            command.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    return subprocess.run(
        ["sh", str(FOLDER / "build.sh"), *arguments],
        cwd=checkout(tmp_path),
        env={"PATH": path} | env,
        capture_output=True,
        text=True,
        check=False,
    )


def checkout(tmp_path: Path) -> Path:
    """A folder with the file from which the version is read; the script may write `dist/` there."""
    copy = tmp_path / "checkout"
    (copy / "src/gemfit").mkdir(parents=True)
    (copy / "src/gemfit/__init__.py").write_text((ROOT / "src/gemfit/__init__.py").read_text())
    return copy


def calls(tmp_path: Path) -> str:
    return (tmp_path / "calls").read_text()


def test_without_a_builder_it_says_so(tmp_path: Path) -> None:
    ended = build(tmp_path, answering=())
    assert ended.returncode == 2
    assert "docker, podman, apptainer: none is installed here and answers" in ended.stderr


def test_the_first_builder_that_answers_is_taken(tmp_path: Path) -> None:
    ended = build(tmp_path, answering=("podman", "apptainer"))
    assert ended.returncode == 0, ended.stderr
    assert f"podman build --file examples/containers/Dockerfile --tag gemfit:{__version__} ." in calls(
        tmp_path
    )
    assert "podman run" not in calls(tmp_path)


@pytest.mark.parametrize(("builder", "verb"), [("docker", "run"), ("apptainer", "exec")])
def test_the_tests_of_the_launcher_run_in_the_image(tmp_path: Path, builder: str, verb: str) -> None:
    ended = build(tmp_path, "check", answering=("docker", "podman", "apptainer"), BUILDER=builder)
    assert ended.returncode == 0, ended.stderr
    assert f"{builder} build" in calls(tmp_path)
    (started,) = re.findall(rf"^{builder} {verb} (?:.|\n)+?tests/launch$", calls(tmp_path), re.MULTILINE)
    assert 'pytest -p no:cacheprovider -m "not slow and not dist and not slurm" tests/launch' in started
    assert ":/checkout:ro" in started


def sky_run(tmp_path: Path) -> list[str]:
    """What the task's lines call, with the bucket in a folder and a `gemfit` that records its arguments."""
    bin_folder = tmp_path / "gemfit-env/bin"
    bin_folder.mkdir(parents=True, exist_ok=True)
    (bin_folder / "gemfit").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{tmp_path}/argv"\n')
    (bin_folder / "gemfit").chmod(0o755)
    (tmp_path / "argv").unlink(missing_ok=True)
    envs = {name: str(value) for name, value in SKY["envs"].items()}
    env = envs | {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SKYPILOT_NUM_GPUS_PER_NODE": "8"}
    lines = SKY["run"].replace('"/runs/', f'"{tmp_path}/runs/')
    subprocess.run(["bash", "-c", lines], env=env, check=True, capture_output=True)
    return (tmp_path / "argv").read_text().splitlines() if (tmp_path / "argv").exists() else []


def parsed(argv: list[str]) -> dict[str, Any]:
    """The values of a command line of gemfit; a word that it does not know is an error."""
    verb = main.get_command(main.make_context("gemfit", ["version"]), argv[0])
    assert verb is not None
    return verb.make_context(argv[0], argv[1:]).params


def test_a_managed_job_starts_resumes_and_leaves_a_complete_run(tmp_path: Path) -> None:
    run = tmp_path / "runs/first"
    started = sky_run(tmp_path)
    assert started[:2] == ["run", SKY["envs"]["RECIPE"]]
    values = parsed(started)
    assert (values["data"], values["nproc"]) == ("/data/chats.jsonl", 8)
    assert (values["folder"].name, values["folder"].parent.name) == ("first", "runs")

    run.mkdir(parents=True)
    (run / "plan.json").write_text("{}")
    resumed = sky_run(tmp_path)
    assert resumed == ["resume", str(run), "--nproc", "8"]
    assert parsed(resumed)["nproc"] == 8

    (run / "verdict.json").write_text('{\n  "outcome": "stopped"\n}\n')
    assert sky_run(tmp_path) == resumed
    (run / "verdict.json").write_text('{\n  "outcome": "completed"\n}\n')
    assert sky_run(tmp_path) == []


def test_the_bucket_of_a_managed_job_takes_files_that_grow() -> None:
    bucket = SKY["file_mounts"]["/runs"]
    assert bucket == {"name": "${BUCKET}", "mode": "MOUNT_CACHED"}
    assert SKY["file_mounts"]["/data/${DATA}"] == "${DATA}"
    assert set(re.findall(r"\$\{?([A-Z]+)\}?(?=[\"}])", SKY["run"])) <= {*SKY["envs"], "PATH"}
    assert SKY["secrets"] == {"HF_TOKEN": None}
    assert SKY["resources"]["job_recovery"] == {"recover_on_exit_codes": [75]}
    allowed = {"name", "resources", "workdir", "envs", "secrets", "file_mounts", "setup", "run"}
    assert set(SKY) == allowed, "check another key with SkyPilot's schema"
