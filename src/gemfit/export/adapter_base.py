"""Base model in the configuration of an exported adapter: name and revision on the Hub, no local path."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from gemfit.core.json_file import read_json_object
from gemfit.export.base_model import find_base_model
from gemfit.export.user_statements import read_statements
from gemfit.rundir import RunDir

ADAPTER_CONFIG = "adapter_config.json"

logger = logging.getLogger(__name__)


def write_adapter_base(run: RunDir, folder: Path) -> None:
    """Write the base's Hub id and revision, from which peft loads it; warn where the id is unknown."""
    plan = run.plan()
    base = find_base_model(plan, read_statements(run))
    name = base.hub_id
    if name is None:
        name = Path(str(plan.recipe.model.id)).expanduser().name
        logger.warning(
            "the adapter names its base model %r, which is not a name on the Hub; state it with "
            "`gemfit card %s --base-model NAMESPACE/NAME`, and export again",
            name,
            run.root,
        )
    # An empty model card of peft, with the path of the base in it; `gemfit card` writes the real one.
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / ADAPTER_CONFIG
    config = read_json_object(path)
    config |= {"base_model_name_or_path": name, "revision": base.revision}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
