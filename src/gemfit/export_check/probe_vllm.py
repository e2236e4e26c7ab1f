"""What vLLM computes from an exported folder: losses, prompt tokens, greedy replies, stop tokens.

A script of its own: it runs in the environment of vLLM, so it imports nothing of gemfit.
``python probe_vllm.py vllm < CASE.json`` prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process, so that its errors end it
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
}


def main() -> None:
    """Read the case from standard input, and print the results."""
    case = json.load(sys.stdin)
    os.environ.update(ENVIRONMENT)
    import vllm  # noqa: PLC0415  (after the environment, which it reads once)

    model = vllm.LLM(
        case["folder"],
        dtype="float32",
        max_model_len=longest(case),
        enforce_eager=True,
        enable_prefix_caching=False,  # a cached prefix has no losses
        seed=0,
    )
    greedy = vllm.SamplingParams(temperature=0, max_tokens=case["max_new_tokens"])
    replies = model.chat(case["prompts"], greedy, use_tqdm=False)
    found = {
        "version": vllm.__version__,
        "losses": losses(model, case["documents"]),
        "prompts": [list(reply.prompt_token_ids) for reply in replies],
        "replies": [list(reply.outputs[0].token_ids) for reply in replies],
        "stops": stops(model),
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def longest(case: dict[str, Any]) -> int:
    """Tokens that the longest document or prompt with its reply needs; a token is at least one byte."""
    prompts = [sum(len(one["content"].encode()) + 64 for one in messages) for messages in case["prompts"]]
    documents = [len(document["ids"]) for document in case["documents"]]
    return max([*documents, *prompts]) + int(case["max_new_tokens"])


def losses(model: Any, documents: list[dict[str, list[int]]]) -> list[float]:
    """Sum of cross-entropies of the labelled tokens of each document, in nats."""
    import vllm  # noqa: PLC0415  (after the environment, which it reads once)

    settings = vllm.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    prompts = [{"prompt_token_ids": document["ids"]} for document in documents]
    outputs = model.generate(prompts, settings, use_tqdm=False)
    return [
        -sum(
            found[token].logprob
            for token, label, found in zip(
                document["ids"], document["labels"], output.prompt_logprobs, strict=True
            )
            if found is not None and label >= 0
        )
        for document, output in zip(documents, outputs, strict=True)
    ]


def stops(model: Any) -> list[int]:
    """Ids that end a reply: vLLM's of the generation configuration, and the tokenizer's."""
    settings = model.get_default_sampling_params()
    return sorted({*(settings.stop_token_ids or ()), model.get_tokenizer().eos_token_id})


if __name__ == "__main__":
    main()
