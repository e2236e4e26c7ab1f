"""``gemfit export --check``: other programs compute what the run's model does, or the difference is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemfit.errors import ExitCode
from gemfit.evaluate.samples import ReplyPrompt
from gemfit.export.export import export
from gemfit.export_check import probe
from gemfit.export_check.__main__ import main
from gemfit.export_check.expected import ExpectedValues, expected_values, with_later_turn
from gemfit.export_check.readers import ExportReader, check_reader, compare, readers_of
from gemfit.schemas.evaluation import SampleMessage
from train.trained import Trained


@pytest.fixture(autouse=True)
def _gradients() -> Iterator[None]:
    """The probe turns them off for its own process."""
    yield
    torch.set_grad_enabled(True)


def ask(reader: str, folder: Path, expected: ExpectedValues, **more: Any) -> dict[str, Any]:
    """What the probe computes, in this process."""
    case = {"folder": str(folder), **expected.case, **more}
    model, tokenizer = probe.load(reader, case).eval(), probe_tokenizer(folder)
    with torch.no_grad():
        prompts = [probe.prompt_ids(tokenizer, messages) for messages in case["prompts"]]
        return {
            "version": "5",
            "losses": [probe.loss(model, document) for document in case["documents"]],
            "prompts": prompts,
            "replies": [probe.reply(model, tokenizer, ids, case["max_new_tokens"]) for ids in prompts],
            "stops": probe.stops(model),
        }


def probe_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415

    return AutoTokenizer.from_pretrained(folder)


def test_there_are_several_documents_and_replies(expected: ExpectedValues) -> None:
    assert len(expected.losses) == len(expected.case["documents"]) >= 2
    assert len(expected.replies) == 2
    roles = [[message["role"] for message in messages] for messages in expected.case["prompts"]]
    assert any("assistant" in role for role in roles)
    assert all(count > 1 for count in expected.labelled)


def prompt(*contents: str) -> ReplyPrompt:
    """A conversation of the user and the assistant in turns, whose last reply is left out."""
    roles = ["user", "assistant"] * len(contents)
    messages = [SampleMessage(role=role, content=text) for role, text in zip(roles, contents, strict=False)]
    return ReplyPrompt(0, tuple(messages), "the reply")


def test_where_no_prompt_has_a_later_turn_the_shortest_goes_on() -> None:
    found = with_later_turn([prompt("a long question"), prompt("short")])
    assert [[message.content for message in messages] for messages in found] == [
        ["a long question"],
        ["short"],
        ["short", "the reply", "short"],
    ]
    assert len(with_later_turn([prompt("a", "b", "c")])) == 1
    assert with_later_turn([]) == []


@pytest.mark.slow
def test_the_command_loads_an_export_in_a_process_of_its_own(
    lora: Trained, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(lora.run.root), str(exported), "--json"]) == ExitCode.DONE
    printed = json.loads(capsys.readouterr().out)
    assert printed["step"] == 2
    here, elsewhere, *servers = printed["readers"]
    assert (here["state"], elsewhere["state"]) == ("equal", "absent")
    assert [server["reader"].partition(" ")[0] for server in servers] == ["OpenAI", "vLLM"]
    assert {server["state"] for server in servers} <= {"equal", "absent"}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_an_adapter_on_its_base_gives_the_same(
    lora: Trained, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(lora.run, tmp_path / "adapter", adapter=True, dtype="float32")
    expected = expected_values(lora.run, "latest", None, rows=4, samples=1, max_new_tokens=4)
    found = ask("peft", tmp_path / "adapter", expected, base=str(base), revision="main")
    result = compare("peft", found, expected)
    assert result.state == "equal", result.found
    (reader,) = readers_of(tmp_path / "adapter", [], {})
    assert reader.kind == "peft"


@pytest.mark.parametrize("fault", ["weights", "rope", "stop", "template", "later turns"])
def test_a_planted_difference_is_named(
    fault: str, exported: Path, expected: ExpectedValues, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    match fault:
        case "weights":
            weights = load_file(folder / "model.safetensors")
            weights["model.layers.1.mlp.down_proj.weight"] *= 5
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        case "rope":
            rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
            rope["full_attention"] = {"rope_type": "default", "rope_theta": 1e2}
            edit(folder / "config.json", "rope_parameters", rope)
        case "stop":
            edit(folder / "generation_config.json", "eos_token_id", [7])
        case "template":
            path = folder / "chat_template.jinja"
            path.write_text(path.read_text().replace("<|user|>", "<|assistant|>"))
        case "later turns":
            path = folder / "chat_template.jinja"
            path.write_text(f"{path.read_text()}{{{{ ' ' if messages | length > 2 else '' }}}}")
    result = compare("transformers", ask("transformers", folder, expected), expected)
    assert result.state == "different"
    said = {
        "weights": "loss ",
        "rope": "loss ",
        "stop": "stops at [7]",
        "template": "prompt 1 differs",
        "later turns": "prompt ",
    }
    assert said[fault] in result.found


def edit(path: Path, key: str, value: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def test_a_reader_that_is_not_there_or_fails_is_a_result(
    exported: Path, expected: ExpectedValues, tmp_path: Path
) -> None:
    missing = ExportReader("other", "transformers", absent="not installed")
    assert check_reader(missing, exported, expected).state == "absent"
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ImportError: no transformers' >&2\nexit 1\n")
    broken.chmod(0o755)
    failed = check_reader(ExportReader("other", "transformers", str(broken)), exported, expected)
    assert (failed.state, failed.found) == ("failed", "ImportError: no transformers")
    silent = check_reader(
        ExportReader("other", "transformers", shutil.which("true") or ""), exported, expected
    )
    assert (silent.state, silent.found) == ("failed", "printed no result")
    unknown = check_reader(ExportReader("other", "transformers", str(tmp_path / "no")), exported, expected)
    assert unknown.state == "failed"


def test_a_loss_that_is_not_a_number_is_a_difference(expected: ExpectedValues) -> None:
    found = {
        "version": "5",
        "losses": [*expected.losses[:-1], float("nan")],
        "prompts": expected.prompts,
        "replies": expected.replies,
        "stops": expected.stops,
    }
    assert compare("transformers", found, expected).state == "different"
    same = compare("transformers", found | {"losses": expected.losses}, expected)
    assert same.state == "equal"
    shorter = replace(expected, replies=[reply[:-1] for reply in expected.replies])
    said = compare("transformers", found | {"losses": expected.losses}, shorter).found
    assert said == f"greedy reply 1 differs from token {len(expected.replies[0])} on"


def test_a_folder_without_a_model_is_refused(lora: Trained, tmp_path: Path, capsys: Any) -> None:
    assert main([str(lora.run.root), str(tmp_path)]) == ExitCode.USER_ERROR
    assert "holds no exported model" in capsys.readouterr().err
