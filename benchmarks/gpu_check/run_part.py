"""One part in a process of its own: its measurements, or its error, as JSON in a file."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from common import Scale


def main() -> None:
    """Measure, and write the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    scale = Scale(dry=options.dry, work=options.work)
    line: dict[str, Any] = {"device": scale.device}
    try:
        measured = import_module(f"part_{options.part}").measure(scale)
        faults = measured.pop("faults", [])
        line |= {"ok": not faults, **({"error": "; ".join(faults)} if faults else {}), "measured": measured}
    except BaseException as error:
        traceback.print_exc()
        line |= {"ok": False, "error": f"{type(error).__name__}: {error}"[-1500:]}
    partial = options.out.with_suffix(".partial")
    partial.write_text(json.dumps(line, default=str))
    partial.rename(options.out)
    sys.stdout.flush()
    os._exit(0)  # threads of libraries may wait for ever


if __name__ == "__main__":
    main()
