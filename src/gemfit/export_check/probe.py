"""What a reader computes from an exported folder: losses, prompt tokens, greedy replies, stop tokens.

A script of its own: it runs in other environments too (transformers 4), so it imports nothing of gemfit.
``python probe.py READER < CASE.json`` prints one line of JSON. READER: transformers or peft.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Read the case from standard input, and print the results."""
    case = json.load(sys.stdin)
    import torch  # noqa: PLC0415  (after the input, whose errors need not wait)
    import transformers  # noqa: PLC0415

    transformers.logging.set_verbosity_error()
    torch.set_grad_enabled(False)
    reader, folder = sys.argv[1], case["folder"]
    model = load(reader, case).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompts = [prompt_ids(tokenizer, messages) for messages in case["prompts"]]
    found = {
        "version": transformers.__version__,
        "losses": [loss(model, document) for document in case["documents"]],
        "prompts": prompts,
        "replies": [reply(model, tokenizer, prompt, case["max_new_tokens"]) for prompt in prompts],
        "stops": stops(model),
    }
    if reader == "peft":
        import peft  # noqa: PLC0415  (only where an adapter is read)

        found["version"] += f", peft {peft.__version__}"
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def load(reader: str, case: dict[str, Any]) -> Any:
    """The model in float32."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    new = int(transformers.__version__.partition(".")[0]) >= 5
    options = {"dtype" if new else "torch_dtype": torch.float32}
    auto, folder = transformers.AutoModelForCausalLM, case["folder"]
    if reader == "peft":
        import peft  # noqa: PLC0415  (only where an adapter is read)

        base = auto.from_pretrained(case["base"], revision=case["revision"], **options)
        model = peft.PeftModel.from_pretrained(base, folder)
        if (Path(folder) / "generation_config.json").is_file():
            base.generation_config = transformers.GenerationConfig.from_pretrained(folder)
        return model
    return auto.from_pretrained(folder, **options)


def loss(model: Any, document: dict[str, list[int]]) -> float:
    """Sum of cross-entropies of the labelled tokens, in nats."""
    import torch  # noqa: PLC0415

    ids, labels = torch.tensor([document["ids"]]), torch.tensor(document["labels"])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1].double()
    return float(torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum"))


def prompt_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Tokens up to the generation prompt."""
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(found["input_ids"])


def reply(model: Any, tokenizer: Any, prompt: list[int], max_new_tokens: int) -> list[int]:
    """Greedy tokens, up to and with the stop token of the folder's generation configuration."""
    import torch  # noqa: PLC0415

    ids = torch.tensor([prompt])
    settings = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    more = {"tokenizer": tokenizer} if model.generation_config.stop_strings else {}
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        **settings,
        **more,
    )
    return list(output[0, len(prompt) :].tolist())


def stops(model: Any) -> list[int]:
    """Ids that end a reply."""
    found = model.generation_config.eos_token_id
    return sorted([found] if isinstance(found, int) else found or [])


if __name__ == "__main__":
    main()
