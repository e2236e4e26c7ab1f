"""Select an installed inference server, vLLM or that of transformers, and make its command line.

Both serve the chat completions protocol of OpenAI.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Literal

from gemfit.core.json_file import read_json_object
from gemfit.errors import UserError
from gemfit.schemas.base import Contract

OF_TRANSFORMERS = ("transformers", "fastapi", "uvicorn", "openai")
"""Packages that the server of transformers needs."""
PORT = 8000
HOW_TO_INSTALL = (
    "no server is installed: pip install 'transformers[serving]' (any machine), or put vllm on PATH (GPUs, "
    "in an environment of its own: it brings its own torch)"
)

ServerName = Literal["vllm", "transformers"]


class Serving(Contract):
    """Server, command and address for a model folder."""

    server: ServerName
    argv: tuple[str, ...]
    url: str
    """Base URL for clients."""
    model: str
    """Its name in requests."""
    dtype: str


def installed_server() -> ServerName:
    """vLLM if installed, else that of transformers; ``UserError`` with instructions if there is neither."""
    if shutil.which("vllm") or _is_there("vllm"):  # on PATH, it may be of another environment
        return "vllm"
    if all(map(_is_there, OF_TRANSFORMERS)):
        return "transformers"
    raise UserError(HOW_TO_INSTALL)


def serving(folder: Path, server: ServerName, *, host: str, port: int) -> Serving:
    """The command for a model folder, in the precision of its weights."""
    config = read_json_object(folder / "config.json")
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "auto")
    # Absolute: a server takes a name without a folder of that name for one of the Hub.
    model = str(folder.absolute())
    options = ("--host", host, "--port", str(port), "--dtype", dtype)
    return Serving(
        server=server,
        argv=(_script(server), "serve", model, *options),
        url=f"http://{host}:{port}/v1",
        model=model,
        dtype=dtype,
    )


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _script(name: str) -> str:
    """The command of this environment, even if the environment is not on PATH."""
    sibling = Path(sys.executable).parent / name
    return str(sibling) if sibling.is_file() else shutil.which(name) or name
