"""``python -m gemfit.modelcard.card RUN``: the model card of a checkpoint, from what the run has recorded.

Every figure is read from the file that holds it. What is not known is said. Costs the tokenizer's loading.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from gemfit.core.atomic_file import write_atomic
from gemfit.errors import ExitCode, UserError
from gemfit.modelcard.body import body
from gemfit.modelcard.facts import CardFacts, gather
from gemfit.modelcard.header import header
from gemfit.modelcard.user_statements import Stated, state
from gemfit.rundir import RunDir


def write_card(
    run: RunDir,
    *,
    step: int | None = None,
    repo: str | None = None,
    is_adapter: bool | None = None,
    out: Path | None = None,
) -> Path:
    """Write the card of the checkpoint of ``step``, or of the newest, to ``out``, which is returned.

    ``out`` is ``run.card_file`` when left out.
    ``repo`` is where the model goes, ``is_adapter`` whether its LoRA goes there alone; both are the recipe's
    when left out. What was stated and noted for an earlier card is in it. ``UserError`` without such a
    checkpoint.
    """
    card = render(gather(run, step, repo=repo, is_adapter=is_adapter), _tokenizer(run))
    return save(card, out or run.card_file)


def render(facts: CardFacts, tokenizer: Any | None) -> ModelCard:
    """The card of ``facts``; ``tokenizer`` has the chat template that is exported, if it is there."""
    return ModelCard(f"---\n{header(facts).to_yaml()}\n---\n\n{body(facts, tokenizer)}\n")


def save(card: ModelCard, path: Path) -> Path:
    """Replace ``path`` by the card."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, str(card))
    return path


def main(argv: list[str] | None = None) -> int:
    """Read the options, keep what they state, write the card, say where."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # before transformers is imported
    try:
        run = RunDir.open(arguments.run)
        state(run, _stated(arguments))
        if arguments.notes is not None:
            _keep_notes(run, arguments.notes)
        facts = gather(run, arguments.step)
        card = render(facts, _tokenizer(run))
        path = save(card, arguments.out or run.card_file)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    for line in unknown(facts):
        sys.stderr.write(f"note: {line}\n")
    told = {"card": str(path), "step": facts.step, **_dict(card)}
    sys.stdout.write(json.dumps(told, indent=2, ensure_ascii=False) + "\n" if arguments.json else f"{path}\n")
    return ExitCode.DONE


def unknown(facts: CardFacts) -> list[str]:
    """What the publisher could state, because no file of the run says it."""
    origin, found = facts.origin, []
    if origin.license is None:
        found.append(f"the licence is not known ({origin.license_because}); state it with --license ID")
    if origin.hub_id is None and not origin.is_scratch:
        found.append(
            "the base model's name on the Hub is not known; state it with --base-model NAMESPACE/NAME"
        )
    return found


def _tokenizer(run: RunDir) -> Any | None:
    """The run's, with the chat template that is exported; ``None`` where it is gone."""
    from gemfit.export.chat_template import tokenizer_for_chat  # noqa: PLC0415  (seconds of imports)
    from gemfit.export.export import packed_tokenizer  # noqa: PLC0415

    try:
        return tokenizer_for_chat(packed_tokenizer(run), run.plan().recipe.data)
    except UserError:
        return None


def _dict(card: ModelCard) -> dict[str, Any]:
    found: dict[str, Any] = card.data.to_dict()  # type: ignore[no-untyped-call]
    return found


def _stated(arguments: argparse.Namespace) -> Stated:
    return Stated(
        license=arguments.license,
        base_model=arguments.base_model,
        language=tuple(arguments.language),
        grid_intensity=arguments.grid_intensity,
        pue=arguments.pue,
    )


def _keep_notes(run: RunDir, path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as the notes of a card: {error}") from None
    run.card_notes.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(run.card_notes, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gemfit.modelcard.card", description="Write the model card of a checkpoint."
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--step", type=int, help="which checkpoint; the newest when left out")
    parser.add_argument("--out", type=Path, help="file; RUN/card/README.md when left out")
    parser.add_argument("--notes", type=Path, help="Markdown to put in; kept for later cards")
    parser.add_argument("--license", help="identifier on the Hugging Face Hub; kept, as all that follow")
    parser.add_argument("--base-model", help="name on the Hugging Face Hub of a base model in a folder")
    parser.add_argument("--language", action="append", default=[], help="ISO 639 code; may be repeated")
    parser.add_argument("--grid-intensity", type=float, help="grams of CO2 equivalent per kilowatt-hour")
    parser.add_argument("--pue", type=float, help="power usage effectiveness of the data centre")
    parser.add_argument("--json", action="store_true", help="the card's header as JSON, and where it is")
    return parser


if __name__ == "__main__":
    sys.exit(main())
