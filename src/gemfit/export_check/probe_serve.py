"""What an OpenAI client gets from ``transformers serve``: greedy texts, length of prompts, ends of replies.

A script of its own: it runs in other environments too, so it imports nothing of gemfit.
``python probe_serve.py serve < CASE.json`` prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from types import FrameType
from typing import IO, Any, NoReturn

START_SECONDS = 600
"""Until a server answers: it imports transformers and loads the model first."""
REPLY_SECONDS = 600


def main() -> None:
    """Read the case from standard input, start a server, ask it, and print the results."""
    case = json.load(sys.stdin)
    signal.signal(signal.SIGTERM, end)
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # a proxy does not reach this server
    import openai  # noqa: PLC0415  (after the input, whose errors need not wait)
    import transformers  # noqa: PLC0415

    with server(case["folder"]) as url:
        client = openai.OpenAI(base_url=url, api_key="-", max_retries=0, timeout=REPLY_SECONDS)
        replies = [ask(client, case, messages) for messages in case["prompts"]]
    found = {
        "version": f"{transformers.__version__}, openai {openai.__version__}",
        "prompt_lengths": [reply.usage.prompt_tokens for reply in replies],
        "texts": [reply.choices[0].message.content or "" for reply in replies],
        "stopped": [reply.choices[0].finish_reason == "stop" for reply in replies],
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def end(number: int, frame: FrameType | None) -> NoReturn:
    """End as after an error, so that no server is left."""
    raise SystemExit(128 + number)


def ask(client: Any, case: dict[str, Any], messages: list[dict[str, str]]) -> Any:
    """A greedy reply. A request names the model by its folder."""
    return client.chat.completions.create(
        model=case["folder"], messages=messages, temperature=0, max_tokens=case["max_new_tokens"]
    )


@contextlib.contextmanager
def server(folder: str) -> Iterator[str]:
    """``transformers serve`` on a free port of 127.0.0.1, in float32 on the CPU; yields its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-P", "-m", "transformers.cli.transformers", "serve", folder]
    options = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--device", "cpu"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        try:
            wait_until_it_listens(process, port, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()  # at a request to end it would finish its replies first
            process.wait()


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: IO[str]) -> None:
    """``SystemExit`` with the last line of its log where the server ends, or takes too long."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    raise SystemExit(f"transformers serve did not start: {lines[-1] if lines else 'no output'}")


if __name__ == "__main__":
    main()
