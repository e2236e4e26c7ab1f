"""``python -m gemfit.export.generate MODEL_DIR --message TEXT``: one answer of a model folder.

Plain transformers on what was exported, with its own chat template, as any other program would use it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from gemfit.errors import ExitCode, UserError

MAX_NEW_TOKENS = 256
TEMPERATURE = 0.7


def main(argv: list[str] | None = None) -> int:
    """Read the options, answer on stdout as the words come."""
    arguments = _parser().parse_args(argv)
    # Before transformers is imported: it would talk about frameworks and draw bars.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        answer = generate(
            arguments.model,
            _messages(arguments.system, arguments.message),
            max_new_tokens=arguments.max_new_tokens,
            temperature=arguments.temperature,
            seed=arguments.seed,
            stream=not arguments.json,
        )
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    if arguments.json:
        sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
    return ExitCode.DONE


def generate(
    folder: Path,
    messages: list[dict[str, str]],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    temperature: float = TEMPERATURE,
    seed: int = 0,
    stream: bool = False,
) -> dict[str, Any]:
    """The answer to ``messages``; with ``stream`` it is also written to stdout as it comes.

    ``temperature`` 0 takes the likeliest token each time. Equal seeds give equal answers.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: is not a model folder (no config.json); make one with `gemfit export`")
    from transformers import TextStreamer, set_seed  # noqa: PLC0415  (a wrong folder is told without the wait)

    tokenizer, model = _load(folder)
    prompt = _prompt(folder, tokenizer, messages).to(model.device)
    set_seed(seed)
    began = time.monotonic()
    output = model.generate(
        **prompt,
        **_sampling(temperature),
        max_new_tokens=max_new_tokens,
        tokenizer=tokenizer,  # a generation config may stop at words
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if stream else None,
    )
    tokens = output[0, prompt["input_ids"].shape[1] :].tolist()
    return {
        "reply": tokenizer.decode(tokens, skip_special_tokens=True),
        "prompt_tokens": prompt["input_ids"].shape[1],
        "reply_tokens": len(tokens),
        "ended": "stop" if len(tokens) < max_new_tokens or tokens[-1] in _stops(model) else "length",
        "seconds": round(time.monotonic() - began, 3),
    }


def _load(folder: Path) -> tuple[Any, Any]:
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be loaded: {error}") from None
    return tokenizer, model.to(device).eval()


def _prompt(folder: Path, tokenizer: Any, messages: list[dict[str, str]]) -> Any:
    from jinja2 import TemplateError  # noqa: PLC0415

    if tokenizer.chat_template is None:
        raise UserError(f"{folder}: its tokenizer has no chat template; export the run with `gemfit export`")
    try:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    except TemplateError as error:
        raise UserError(f"{folder}: its chat template refuses these messages: {error}") from None


def _sampling(temperature: float) -> dict[str, Any]:
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature}
    # What a generation config says about sampling has no meaning then.
    return {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}


def _stops(model: Any) -> list[int]:
    stops = model.generation_config.eos_token_id
    return stops if isinstance(stops, list) else [stops]


def _messages(system: str | None, message: str) -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system is not None else []
    return [*first, {"role": "user", "content": message}]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gemfit.export.generate", description="Let a model folder answer one message."
    )
    parser.add_argument("model", type=Path, help="Hugging Face model folder")
    parser.add_argument("--message", required=True, help="what the user says")
    parser.add_argument("--system", help="what the system says first")
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help="longest answer")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help="0 takes the likeliest token")
    parser.add_argument("--seed", type=int, default=0, help="of sampling")
    parser.add_argument("--json", action="store_true", help="the answer and its figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
