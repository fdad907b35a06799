"""Asks servers of weights, patiently but not for long, and says where their files land."""

from __future__ import annotations

import http.client
import os
import threading
import urllib.request
from pathlib import Path

TIMEOUT_SECONDS = 5.0


def downloaded_file(url: str) -> Path:
    """Where torch keeps what it downloaded from there."""
    home = Path(os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch")
    return home.expanduser() / "hub" / "checkpoints" / url.rpartition("/")[2]


def ask(url: str, *, method: str = "GET") -> bytes | None:
    """What stands at the address; None where there is nothing, or no answer in time.

    In a thread, since a silent name server heeds no timeout. urllib honours the proxy variables.
    """
    answer: list[bytes] = []

    def read() -> None:
        request = urllib.request.Request(url, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                answer.append(response.read())
        except (OSError, ValueError, http.client.HTTPException):
            return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    return answer[0] if answer else None
