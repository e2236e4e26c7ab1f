"""``python -m gemfit.chat MODEL [--message TEXT]``: chat with a checkpoint, its base model or a model folder.

A checkpoint needs no export. Memory is 4 bytes per parameter on a CPU, 2 on a GPU under bfloat16.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from gemfit.core.os_errors import explaining_os_errors
from gemfit.errors import ExitCode, UserError
from gemfit.evaluate.system_prompt import system_prompts
from gemfit.rundir import RunDir
from gemfit.schemas.pack_job import cache_folder

MAX_NEW_TOKENS = 256
TEMPERATURE = 0.7
CHECKPOINT = "latest"


def main(argv: list[str] | None = None) -> int:
    """Parse the options, load the model, chat."""
    arguments = _parser().parse_args(argv)
    # Before transformers is imported: it would log about frameworks and draw progress bars.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with explaining_os_errors():
            chat(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    except KeyboardInterrupt:  # while the model is read; a reply is interrupted by itself
        return 128 + signal.SIGINT
    return ExitCode.DONE


def chat(arguments: argparse.Namespace) -> None:
    """Load the model; reply to ``--message``, or start the chat loop."""
    if arguments.json and arguments.message is None:
        raise UserError("--json needs --message: a chat is not a JSON document")
    path = arguments.model
    is_run = RunDir(path).plan_file.is_file()
    if not is_run and not (path / "config.json").is_file():
        raise UserError(f"{path}: is neither a model folder (no config.json) nor a run (no plan.json)")
    if not is_run and arguments.checkpoint is not None:
        raise UserError(f"{path}: is a model folder and has no checkpoints; leave --checkpoint out")
    system = arguments.system if arguments.system is not None else _system(path if is_run else None)
    from transformers import set_seed  # noqa: PLC0415  (errors come without the wait)

    from gemfit.chat.generator import ReplyGenerator, ReplySettings  # noqa: PLC0415
    from gemfit.chat.session import ChatSession  # noqa: PLC0415
    from gemfit.chat.terminal import chat_loop, print_status, reply_once  # noqa: PLC0415

    name, loaded = _of_run(path, arguments.checkpoint or CHECKPOINT) if is_run else _of_folder(path)
    set_seed(arguments.seed)
    print_status(f"model: {name}")
    settings = ReplySettings(temperature=arguments.temperature, max_new_tokens=arguments.max_new_tokens)
    generator = ReplyGenerator(loaded, settings)
    if arguments.message is not None:
        reply_once(generator, ChatSession(system), arguments.message, as_json=arguments.json)
    else:
        chat_loop(generator, ChatSession(system), cache_folder() / "chat-history")


def _system(run: Path | None) -> str:
    """The most frequent system message of a run's data; none where there is none, or no run."""
    if run is None:
        return ""
    try:
        found = system_prompts(RunDir.open(run).plan().recipe.data)
    except UserError as error:
        sys.stderr.write(f"the system message of the training is unknown: {error}\n")
        return ""
    if found.most_common is not None:
        counted = f"{'the first ' if found.is_sample else ''}{found.conversations:,}"
        sys.stderr.write(
            f"{found.count:,} of {counted} training conversations begin with this system message, "
            "more than with any other; --system '' leaves it out\n"
        )
    return found.most_common or ""


def _device() -> str:
    import torch  # noqa: PLC0415  (seconds)

    return "cuda" if torch.cuda.is_available() else "cpu"


def _of_run(path: Path, checkpoint: str) -> tuple[str, Any]:
    from gemfit.evaluate.models import find_models, open_model_ref  # noqa: PLC0415  (as above)

    run = RunDir.open(path)
    [ref] = find_models(run, [checkpoint])
    return f"{ref.name} of {path}", open_model_ref(run, ref, _device())


def _of_folder(path: Path) -> tuple[str, Any]:
    import torch  # noqa: PLC0415  (as above)
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    from gemfit.core.rust_panic import panics_as_errors  # noqa: PLC0415
    from gemfit.data.tokenize.tokenizer import load_tokenizer  # noqa: PLC0415
    from gemfit.evaluate.models import LoadedModel  # noqa: PLC0415

    device = _device()
    tokenizer = load_tokenizer(str(path))
    try:
        dtype = "auto" if device == "cuda" else torch.float32  # which most CPUs are fastest in
        with panics_as_errors():
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=False)
    except Exception as error:  # damaged files: safetensors, transformers and torch raise many kinds
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{path}: cannot be loaded: {first}") from None
    if tokenizer.chat_template is None:
        raise UserError(f"{path}: its tokenizer has no chat template; export the run with `gemfit export`")
    return str(path), LoadedModel(model.to(device).eval(), tokenizer)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gemfit.chat", description="Chat with a trained model.")
    parser.add_argument("model", type=Path, help="run folder, or Hugging Face model folder")
    parser.add_argument("--checkpoint", help="of a run: a step, `latest`, `best` or `base`")
    parser.add_argument("--system", help="system prompt; the training's when left out")
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help="longest reply")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help="0: greedy decoding")
    parser.add_argument("--seed", type=int, default=0, help="of sampling")
    parser.add_argument("--message", help="answer this one message and exit")
    parser.add_argument("--json", action="store_true", help="with --message: reply and token counts as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
