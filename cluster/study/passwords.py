"""Finds passwords in URLs and removes them, because flags are written down and seen by others."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

VARIABLES = {"storage": "PGPASSWORD", "tracking_uri": "MLFLOW_TRACKING_PASSWORD"}
"""Environment variable that holds the password, by field of StudyConfig."""

_SECRET_NAME = re.compile(
    r"passw|passphrase|pwd|secret|token|credential|signature|^sig$|^pass$|^key$|(api|access|account)[-_]?key"
)
"""Names of URL parameters with a secret, in lower case; not `sslkey` and `passfile`, which name files."""
_HIDDEN_INSIDE = re.compile(r"(password|passwd|pwd|secret|token)\s*=\s*[^\s;&]+", re.IGNORECASE)
"""A secret inside a parameter's value (ODBC), or in a connection string of words."""
_BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "r2", "oss")
"""Protocols whose addresses have no port, so that a colon always precedes a secret."""
_CHAIN = 2 * ":"
"""Separator of the protocols in a chained address of fsspec."""
_URLS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s'\"<>]*")


def has_password(text: str | None) -> bool:
    """Whether a flag's value is a URL with a password, key or token."""
    return text is not None and without_password(text, whole=True) != text


def without_password(text: str, *, whole: bool = False) -> str:
    """The text without the passwords of the URLs in it, so that it may be written down or printed.

    A database's client finds its password itself, in $PGPASSWORD or ~/.pgpass.

    Args:
        whole: the whole text is one URL; otherwise a URL ends at a space or quote, as in an error message.
    """
    if not whole:
        cleaned = _URLS.sub(lambda found: _clean(found[0]), text)
        return _HIDDEN_INSIDE.sub(lambda found: f"{found[1]}=…", cleaned)
    if "://" not in text:
        return text
    return _CHAIN.join(_clean(part) if "://" in part else part for part in text.split(_CHAIN))


def _clean(url: str) -> str:
    scheme, _, rest = url.partition("://")
    user, fragment_mark, fragment = "", "", ""
    is_file = scheme.lower().startswith("sqlite") and rest.startswith("/")  # its name may hold # and @
    if not is_file:
        user, rest = _split_user(rest, is_bucket=scheme.lower() in _BUCKETS)
        rest, fragment_mark, fragment = rest.partition("#")
    path, query_mark, query = rest.partition("?")
    kept = f"{scheme}://{user}{path}"
    for mark, pairs in ((query_mark, query), (fragment_mark, fragment)):
        public = "&".join(pair for pair in pairs.split("&") if not _is_secret(pair))
        kept += mark + public if public or not pairs else ""
    return kept


def _split_user(rest: str, *, is_bucket: bool) -> tuple[str, str]:
    """Split what follows "://" into "user@", or "" without a password to remove, and the rest."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        at = authority.rindex("@")
    elif ":" in authority and "@" in rest and (is_bucket or not authority.rpartition(":")[2].isdigit()):
        # The secret itself contains a slash, as those of Amazon often do.
        at = rest.rindex("@")
    else:
        return "", rest
    user, *password = re.split(":|%3a", rest[:at], maxsplit=1, flags=re.IGNORECASE)
    if not any(password):
        return "", rest
    return (f"{user}@" if user else ""), rest[at + 1 :]


def _is_secret(pair: str) -> bool:
    name, _, value = pair.partition("=")
    if not value:
        return False
    name, value = unquote_plus(name).lower(), unquote(value)
    return bool(_SECRET_NAME.search(name) or _HIDDEN_INSIDE.search(value) or has_password(value))
