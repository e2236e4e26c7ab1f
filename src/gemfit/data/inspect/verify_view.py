"""Tell what ``verify`` has proven: a short table, or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gemfit.data.inspect.tables import page, table
from gemfit.data.inspect.verify import verify
from gemfit.errors import ExitCode, UserError

MEANING = {
    "files": "every file has the size and digest of the manifest",
    "conversations": "numbered without gaps, in canonical order; each copy is one",
    "rows": "lengths, labels and padding agree; no label crosses documents",
    "ledger": "every token of every conversation stands in the rows as often as it should",
    "sums": "rows, conversations and manifest give the same sums; nothing is lost",
}
"""What has been shown where there is no problem."""


def print_verification(folder: Path, *, as_json: bool) -> ExitCode:
    """Verify the pack and say so; problems are a ``UserError``, or in the JSON with that exit code."""
    proofs = verify(folder)
    problems = [problem for proof in proofs for problem in proof.problems]
    if as_json:
        told = {
            "pack": str(folder),
            "sound": not problems,
            "proofs": [proof._asdict() | {"proven": MEANING[proof.what]} for proof in proofs],
        }
        sys.stdout.write(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        return ExitCode.USER_ERROR if problems else ExitCode.DONE
    if problems:
        raise UserError("\n".join([*problems, f"{folder}: is not sound; delete it and pack again"]))
    rows = [(proof.what, proof.seen, MEANING[proof.what]) for proof in proofs]
    page().print(table(["proven", "looked at", "what holds"], rows))
    return ExitCode.DONE
