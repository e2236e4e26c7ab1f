"""`gemfit doctor` tells what is wrong with a machine, and what to do; each check sees a planted failure."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from fake_nvidia_smi import FakeNvidiaSmi, nvidia_smi
from gemfit.core.nvidia_smi import NvidiaSmiUnavailable, parse_rows
from gemfit.schemas.check import CheckResult, error, ok
from gemfit.schemas.recipe import Recipe
from gemfit_launch.doctor import machine
from gemfit_launch.doctor.machine import (
    GPU_FIELDS,
    check_disks,
    check_gpus,
    check_hub,
    check_limits,
    check_ports,
    check_slurm,
    judge_disk,
    judge_gpus,
    judge_limit,
    write_speed,
)
from gemfit_launch.doctor.packages import check_packages, minimum_versions, numbers
from gemfit_launch.planning.request import Request
from gemfit_launch.verbs import doctor as verb

__all__ = ["nvidia_smi"]
Cli = Callable[..., Result]
MINIMUM = {"torch": "2.13", "transformers": "5.23"}


def state_of(checks: Sequence[CheckResult]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def installed(**versions: str) -> Callable[[str], str | None]:
    return lambda package: versions.get(package.replace("-", "_"))


def test_our_own_minimum_versions_are_known() -> None:
    assert minimum_versions()["transformers"] == "5.23"


def test_packages_that_are_new_enough_are_in_order() -> None:
    checks = list(check_packages(MINIMUM, installed(torch="2.13.0+cpu", transformers="5.24.1")))
    assert set(state_of(checks).values()) == {"ok"}


def test_a_known_incompatible_version_fails_with_its_effect() -> None:
    checks = list(check_packages(MINIMUM, installed(torch="2.13.0", transformers="5.3.0")))
    (check,) = (check for check in checks if check.state == "error")
    assert check.found == ("5.3.0, older than 5.23: training Gemma 3 of 4b and more wants token_type_ids")
    assert check.do == "pip install 'transformers>=5.23'"


def test_a_clash_of_a_version_that_we_allow_is_a_warning() -> None:
    checks = list(check_packages({"torch": "2.10"}, installed(torch="2.12.1")))
    assert state_of(checks)["torch"] == "warning"


def test_a_missing_package_fails_where_torch_is_installed() -> None:
    checks = list(check_packages(MINIMUM, installed(torch="2.13.0")))
    assert state_of(checks)["transformers"] == "error"


def test_on_a_login_node_absent_training_packages_are_fine() -> None:
    checks = list(check_packages(MINIMUM, installed()))
    assert state_of(checks) == {"python": "ok", "training packages": "ok"}


def test_an_old_python_fails() -> None:
    python, *_ = check_packages(MINIMUM, installed(), (3, 10, 4))
    assert (python.state, python.found) == ("error", "3.10.4")


def test_versions_are_compared_by_their_numbers() -> None:
    assert numbers("2.13.0+cpu") > numbers("2.9.1") > numbers("2.9")


def test_the_speed_of_a_disk_is_measured_and_no_file_stays(tmp_path: Path) -> None:
    assert write_speed(tmp_path, 4 * machine.MIB) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("speed", "free", "state"),
    [
        (500e6, 10**12, "ok"),
        (20e6, 10**12, "warning"),
        (500e6, 20 * 10**9, "warning"),
        (500e6, 10**8, "error"),
    ],
)
def test_a_slow_or_full_disk_is_reported(speed: float, free: int, state: str) -> None:
    check = judge_disk("runs", Path("/data"), speed, free)
    assert check.state == state
    assert bool(check.do) == (state != "ok")


def test_a_folder_that_cannot_be_written_to_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, size: int) -> float:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine, "write_speed", refuse)
    (check,) = check_disks({"runs": tmp_path / "not" / "there"})
    assert (check.state, check.found) == ("error", f"{tmp_path}: Permission denied")


def test_low_limits_are_reported_with_the_command_that_raises_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 1024))
    by_name = {check.name: check for check in check_limits()}
    assert by_name["open files (ulimit -n)"].do == "ulimit -n 65536"
    assert by_name["locked memory (ulimit -l)"].state == "warning"
    assert judge_limit("any", resource.RLIM_INFINITY, 10**12, "").state == "ok"


def test_a_machine_that_cannot_meet_itself_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_ports().state == "ok"

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ConnectionRefusedError("Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert check_ports().state == "error"


def test_an_unreachable_hub_is_a_warning_and_an_offline_one_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    check = check_hub({"HF_ENDPOINT": "https://hub.example"})
    assert (check.state, check.found) == (
        "warning",
        "https://hub.example does not answer: Name or service not known",
    )
    assert check_hub({"HF_HUB_OFFLINE": "1"}).state == "ok"


def test_a_hub_that_refuses_is_still_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.HTTPError("https://huggingface.co", 403, "Forbidden", {}, None)  # type: ignore[arg-type]

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert check_hub({}).state == "ok"


def test_missing_slurm_commands_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "scontrol" else f"/bin/{tool}")
    assert check_slurm().found == "not found: scontrol"
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert check_slurm().state == "ok"


H100 = "NVIDIA H100 80GB HBM3, 570.86, 81559, 9.0\n"


def test_gpus_are_counted_by_kind() -> None:
    (check,) = judge_gpus(parse_rows(2 * H100, GPU_FIELDS))
    assert check.state == "ok"
    assert check.found.startswith("2 x NVIDIA H100 80GB HBM3, 81559 MiB, compute capability 9.0")


def test_old_mixed_and_missing_gpus_are_reported() -> None:
    checks = list(judge_gpus(parse_rows(H100 + "Tesla V100, 570.86, 16160, 7.0\n", GPU_FIELDS)))
    assert [check.state for check in checks] == ["ok", "error", "warning"]
    assert "model.dtype to float32" in checks[1].do
    assert [check.state for check in judge_gpus([])] == ["error"]


@pytest.mark.parametrize(
    ("line", "state", "found"),
    [
        ("NVIDIA GB10, 580.95, [N/A], 12.1", "ok", "memory [N/A], compute capability 12.1"),
        ("Orin (nvgpu), N/A, [N/A], [N/A]", "ok", "compute capability [N/A]"),
        ("NVIDIA H100 PCIe, 570.86, [GPU requires reset], 9.0", "error", "[GPU requires reset]"),
    ],
)
def test_values_that_the_driver_does_not_give_are_no_error(line: str, state: str, found: str) -> None:
    (check,) = judge_gpus(parse_rows(line, GPU_FIELDS))
    assert check.state == state
    assert found in check.found


def test_without_nvidia_smi_device_files_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: Any, **kwargs: Any) -> None:
        raise NvidiaSmiUnavailable("nvidia-smi is not on PATH")

    monkeypatch.setattr(machine, "query_gpus", absent)
    for files, state in ((0, "ok"), (8, "warning")):
        monkeypatch.setattr(machine, "count_device_files", lambda root, files=files: files)
        assert [check.state for check in check_gpus()] == [state]


def test_a_failing_driver_is_reported(nvidia_smi: FakeNvidiaSmi) -> None:
    nvidia_smi.prints("Failed to initialize NVML\n", status=9)
    (check,) = check_gpus()
    assert (check.state, check.found) == ("error", "nvidia-smi fails: Failed to initialize NVML")


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe | None, bool]]:
    """Stands in for what the verb looks at; the machine is in order, and torch sees one failure."""
    asked: list[tuple[Recipe | None, bool]] = []

    def with_torch(recipe: Recipe | None, full: bool) -> Sequence[CheckResult]:
        asked.append((recipe, full))
        return (error("recipe", "one BOS", "none", "use another template"),) if recipe else ()

    monkeypatch.setattr(verb, "check_machine", lambda: iter([ok("disk", "runs", "fast")]))
    monkeypatch.setattr(verb, "check_with_torch", with_torch)
    return asked


def test_exit_status_and_table_tell_what_failed(cli: Cli, looked: list[Any]) -> None:
    done = cli("doctor")
    assert done.exit_code == 0
    assert "0 errors, 0 warnings, 1 ok" in done.output
    done = cli("doctor", "debug/cpu-tiny", "--full")
    assert done.exit_code == 1
    assert "-> use another template" in done.output
    assert [full for _, full in looked] == [False, True]


def test_json_is_a_list_of_checks(cli: Cli, looked: list[Any]) -> None:
    found = json.loads(cli("doctor", "debug/cpu-tiny", "--json").stdout)
    assert [(check["name"], check["state"]) for check in found] == [("runs", "ok"), ("one BOS", "error")]


def test_what_changes_a_recipe_needs_one(cli: Cli, looked: list[Any]) -> None:
    assert cli("doctor", "--data", "conversations.jsonl").exit_code == 2
    assert looked == []


def test_the_checked_recipe_has_a_resolved_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def ask(module: str, arguments: list[str]) -> str:
        asked.append(json.loads(Path(arguments[0]).read_text()))
        return "[]"

    monkeypatch.setattr(verb, "ask_answer", ask)
    monkeypatch.setattr(verb, "find_spec", lambda name: True)
    recipe = Request(name="debug/cpu-tiny").recipe()
    assert verb.check_with_torch(recipe, False) == ()
    assert asked[0]["model"]["attention"] == "sdpa"


def test_without_torch_a_recipe_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "find_spec", lambda name: None)
    assert verb.check_with_torch(None, False) == ()
    (check,) = verb.check_with_torch(Request(name="debug/cpu-tiny").recipe(), False)
    assert (check.state, check.found) == ("ok", "not checked: training packages are not installed")
