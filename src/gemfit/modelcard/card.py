"""``python -m gemfit.modelcard.card RUN``: write the model card of a checkpoint from the records of the run.

Costs loading the tokenizer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from gemfit.checkpoint.resolve_checkpoint import LATEST
from gemfit.core.atomic_file import write_atomic
from gemfit.core.module_main import run_main
from gemfit.errors import ExitCode, UserError
from gemfit.export.user_statements import UserStatements, add_statements
from gemfit.modelcard.body import body
from gemfit.modelcard.facts import CardFacts, gather
from gemfit.modelcard.header import header
from gemfit.rundir import RunDir


def write_card(
    run: RunDir,
    *,
    step: int | None = None,
    repo: str | None = None,
    is_adapter: bool | None = None,
    out: Path | None = None,
) -> Path:
    """Write the card of the checkpoint of ``step``, by default the newest; returns its path.

    ``out`` defaults to ``run.card_file``. ``repo`` is where the model is published, ``is_adapter`` whether
    its LoRA is published alone; both default to the recipe's. Earlier statements and notes are included.
    """
    which = LATEST if step is None else str(step)
    card = render(gather(run, which, repo=repo, is_adapter=is_adapter), _tokenizer(run))
    return save(card, out or run.card_file)


def render(facts: CardFacts, tokenizer: Any | None) -> ModelCard:
    """The card of ``facts``; ``tokenizer`` has the exported chat template."""
    return ModelCard(f"---\n{header(facts).to_yaml()}\n---\n\n{body(facts, tokenizer)}\n")


def save(card: ModelCard, path: Path) -> Path:
    """Replace ``path`` by the card."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, str(card))
    return path


def main(argv: list[str] | None = None) -> int:
    """Parse options, store statements, write the card, print its path."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # before transformers is imported
    return run_main(lambda: _card(arguments))


def _card(arguments: argparse.Namespace) -> ExitCode:
    run = RunDir.open(arguments.run)
    add_statements(run, _statements(arguments))
    if arguments.notes is not None:
        _store_notes(run, arguments.notes)
    facts = gather(run, arguments.checkpoint)
    card = render(facts, _tokenizer(run))
    path = save(card, arguments.out or run.card_file)
    for line in missing_statements(facts):
        sys.stderr.write(f"note: {line}\n")
    result = {"card": str(path), "step": facts.step, **_metadata(card)}
    sys.stdout.write(
        json.dumps(result, indent=2, ensure_ascii=False) + "\n" if arguments.json else f"{path}\n"
    )
    return ExitCode.DONE


def missing_statements(facts: CardFacts) -> list[str]:
    """Facts that no file of the run has, and the options that state them."""
    base, found = facts.base_model, []
    if base.license is None:
        found.append(f"the licence is unknown ({base.license_because}); state it with --license ID")
    if base.hub_id is None and not base.is_scratch:
        found.append("the base model's name on the Hub is unknown; state it with --base-model NAMESPACE/NAME")
    return found


def _tokenizer(run: RunDir) -> Any | None:
    """The run's, with the exported chat template; ``None`` where it was removed."""
    from gemfit.export.chat_template import tokenizer_for_chat  # noqa: PLC0415  (seconds of imports)
    from gemfit.export.export import packed_tokenizer  # noqa: PLC0415

    try:
        return tokenizer_for_chat(packed_tokenizer(run), run.plan().recipe.data)
    except UserError:
        return None


def _metadata(card: ModelCard) -> dict[str, Any]:
    found: dict[str, Any] = card.data.to_dict()  # type: ignore[no-untyped-call]
    return found


def _statements(arguments: argparse.Namespace) -> UserStatements:
    return UserStatements(
        license=arguments.license,
        base_model=arguments.base_model,
        language=tuple(arguments.language),
        grid_intensity=arguments.grid_intensity,
        pue=arguments.pue,
    )


def _store_notes(run: RunDir, path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as notes of a model card: {error}") from None
    run.card_notes.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(run.card_notes, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gemfit.modelcard.card", description="Write the model card of a checkpoint."
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--checkpoint", default=LATEST, help="a step, latest or best")
    parser.add_argument("--out", type=Path, help="file (default: RUN/card/README.md)")
    parser.add_argument("--notes", type=Path, help="Markdown to include; stored for later cards")
    parser.add_argument("--license", help="identifier on the Hugging Face Hub; stored, as all options below")
    parser.add_argument("--base-model", help="name on the Hugging Face Hub of a base model in a folder")
    parser.add_argument("--language", action="append", default=[], help="ISO 639 code; may be repeated")
    parser.add_argument("--grid-intensity", type=float, help="grams of CO2 equivalent per kilowatt-hour")
    parser.add_argument("--pue", type=float, help="power usage effectiveness of the data centre")
    parser.add_argument("--json", action="store_true", help="print the metadata and the path as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
