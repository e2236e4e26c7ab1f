"""Where trackers write to, as a key of `TrackerState`: a server, or the run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

HERE = "run folder"
OFFLINE_MODES = ("offline", "dryrun")
"""Values of `WANDB_MODE`."""
DEFAULT_SERVERS = {"wandb": "https://api.wandb.ai"}
SERVER_VARIABLES = {
    "wandb": ("WANDB_BASE_URL",),
    "mlflow": ("MLFLOW_TRACKING_URI",),
    "trackio": ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_DIR"),
}
"""By tracker: the variables that name a destination; the first one that is set counts."""


def destination(tracker: str, environment: Mapping[str, str] = os.environ) -> str:
    """The server of ``tracker`` that the environment names, without a password in it, or ``HERE``."""
    if tracker == "wandb" and environment.get("WANDB_MODE") in OFFLINE_MODES:
        return HERE
    given = [environment[name] for name in SERVER_VARIABLES[tracker] if environment.get(name)]
    return _without_password(given[0]) if given else DEFAULT_SERVERS.get(tracker, HERE)


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
