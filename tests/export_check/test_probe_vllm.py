"""The script that asks vLLM, with a stand-in of vLLM that computes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemfit.export_check.expected import ExpectedValues
from gemfit.export_check.readers import ExportReader, check_reader

VLLM = """
import json, os
from pathlib import Path
from types import SimpleNamespace as Values

__version__ = "stand-in"
known = json.loads(Path(__file__).with_name("known").read_text())
assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0", "set before the import"

class SamplingParams(Values):
    pass

class LLM:
    def __init__(self, folder, *, dtype, max_model_len, enable_prefix_caching, **options):
        assert (folder, dtype, enable_prefix_caching) == (known["folder"], "float32", False)
        self.longest = max_model_len

    def chat(self, prompts, settings, use_tqdm):
        assert (prompts, settings.temperature) == (known["messages"], 0)
        assert max(map(len, known["prompts"])) + settings.max_tokens <= self.longest
        return [
            Values(prompt_token_ids=prompt, outputs=[Values(token_ids=tuple(reply))])
            for prompt, reply in zip(known["prompts"], known["replies"], strict=True)
        ]

    def generate(self, prompts, settings, use_tqdm):
        for prompt, loss, labels in zip(prompts, known["losses"], known["labels"], strict=True):
            ids = prompt["prompt_token_ids"]
            assert len(ids) + settings.max_tokens <= self.longest
            places = [place for place, label in enumerate(labels) if place and label >= 0]
            # Every other token has a loss too, which is not to be counted.
            losses = [loss / len(places) if place in places else 100.0 for place in range(len(ids))]
            yield Values(prompt_logprobs=[
                {token: Values(logprob=-loss)} if place else None
                for place, (token, loss) in enumerate(zip(ids, losses))
            ])

    def get_default_sampling_params(self):
        return Values(stop_token_ids=known["stops"][1:])

    def get_tokenizer(self):
        return Values(eos_token_id=known["stops"][0])
"""


@pytest.mark.parametrize("changed", [None, "losses", "prompts", "replies", "stops"])
def test_what_vllm_gives_is_compared(
    changed: str | None,
    exported: Path,
    expected: ExpectedValues,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {
        "folder": str(exported),
        "messages": expected.case["prompts"],
        "labels": [document["labels"] for document in expected.case["documents"]],
        "losses": list(expected.losses),
        "prompts": [list(prompt) for prompt in expected.prompts],
        "replies": [list(reply) for reply in expected.replies],
        "stops": list(expected.stops),
    }
    if changed in ("losses", "stops"):
        known[changed][0] += 1
    elif changed is not None:
        known[changed][1][0] += 1
    (tmp_path / "known").write_text(json.dumps(known))
    (tmp_path / "vllm.py").write_text(VLLM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = check_reader(ExportReader("vLLM", "vllm"), exported, expected)
    said = {
        None: "loss ",
        "losses": "loss ",
        "prompts": "prompt 2 differs from token 1 on",
        "replies": "greedy reply 2 differs from token 1 on",
        "stops": "stops at ",
    }
    assert result.state == ("different" if changed else "equal"), result.found
    assert result.found.startswith(said[changed])
