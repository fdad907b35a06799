"""Passwords in URLs: found, refused or left out, since flags are written down and seen by others."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(?<=://)(?P<user>[^/@\s:]*):[^/\s]*@")
VARIABLES = {"storage": "PGPASSWORD", "tracking_uri": "MLFLOW_TRACKING_PASSWORD"}
"""Flag and environment variable that takes its password."""


def has_password(url: str | None) -> bool:
    return url is not None and _PASSWORD.search(url) is not None


def without_password(url: str) -> str:
    """What may be written down. The database's client finds the password itself: $PGPASSWORD, ~/.pgpass."""
    return _PASSWORD.sub(r"\g<user>@", url)
