"""Print the results of ``verify`` as a table or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gemfit.data.inspect.tables import stdout_console, table
from gemfit.data.inspect.verify import verify
from gemfit.errors import ExitCode, UserError

GUARANTEES = {
    "files": "every file has the size and digest of the manifest",
    "conversations": "numbered without gaps, in canonical order; duplicates are exact",
    "rows": "lengths, labels and padding agree; no label crosses documents",
    "ledger": "every token of every conversation is in the rows as often as it should be",
    "sums": "rows, conversations and manifest give the same sums; nothing is lost",
}
"""What a check without problems guarantees."""


def print_verification(folder: Path, *, as_json: bool) -> ExitCode:
    """Verify a pack and print the checks; problems are a ``UserError``, in JSON only its exit code."""
    checks = verify(folder)
    problems = [problem for check in checks for problem in check.problems]
    if as_json:
        result = {
            "pack": str(folder),
            "sound": not problems,
            "proofs": [
                {
                    "what": check.name,
                    "seen": check.checked,
                    "problems": check.problems,
                    "proven": GUARANTEES[check.name],
                }
                for check in checks
            ],
        }
        sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        return ExitCode.USER_ERROR if problems else ExitCode.DONE
    if problems:
        raise UserError("\n".join([*problems, f"{folder}: is not sound; delete it and pack again"]))
    rows = [(check.name, check.checked, GUARANTEES[check.name]) for check in checks]
    stdout_console().print(table(["check", "checked", "guarantee"], rows))
    return ExitCode.DONE
