"""Makes the best of the environment a process is started in: its terminal, its proxies, its folders."""

from __future__ import annotations

import atexit
import gc
import getpass
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def prepare_process() -> None:
    """Let no name end the program that the terminal cannot show, and no proxy stand before this machine.

    Every command calls it first.
    """
    atexit.register(_end_soon)
    for stream in (sys.stdout, sys.stderr):
        # LC_ALL=C or PYTHONIOENCODING=ascii, and file names of bytes that are no UTF-8.
        if getattr(stream, "errors", "") == "strict":
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    os.environ.update(loopback_without_proxy(os.environ))
    give_home()


def _end_soon() -> None:
    """Let the interpreter look for no garbage at its end: among a million objects it takes seconds.

    Where triton was imported, it would complain of what is left, so that it is left to the collector.
    """
    if "triton" not in sys.modules:
        gc.freeze()


def give_home() -> None:
    """Give a user whom the system does not know, as containers run them, a name and a private home folder.

    Importing some libraries fails without.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
    try:
        Path("~").expanduser()
    except RuntimeError:
        os.environ["HOME"] = str(private_folder())
        print(
            f"this user has no home folder: {os.environ['HOME']} stands for it; HOME names another",
            file=sys.stderr,
        )


def loopback_without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep requests to this machine itself away from a proxy; {} without one.

    Ray's job server and MLflow often listen here, where a proxy on another machine cannot reach them.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in _PROXIES):
        return {}
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    if "*" in hosts:
        return {}
    text = ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])
    return {"no_proxy": text, "NO_PROXY": text}


def expand(path: str | Path) -> Path:
    """Make a path absolute, with ~ as the user's home.

    Raises:
        ValueError: there is no such user.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{path}: there is no such user's home; pass a full path") from None


def usual_cache_dir() -> Path:
    """Folder of the cache without a flag: $UNFREEZE_CACHE, else the user's folder for caches."""
    if own := os.environ.get("UNFREEZE_CACHE"):
        return expand(own)
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():  # the specification says to ignore others
        return shared / "unfreeze"
    return expand("~/.cache/unfreeze")


def private_cache_dir() -> Path:
    """Folder of the cache for a user who cannot write the usual one."""
    return private_folder() / "cache"


def private_folder(within: Path | None = None) -> Path:
    """Folder for temporary files that is this user's alone, on a machine that several share.

    It is made by whoever writes there first, through `make_private`.
    """
    return (within or Path(tempfile.gettempdir())) / f"unfreeze-{os.getuid()}"


def make_private(folder: Path) -> Path:
    """Make a folder that only this user can enter.

    Raises:
        PermissionError: another user has made it, or a link in its place.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise PermissionError(
            f"{folder} belongs to another user: remove it, or set TMPDIR to a folder of yours"
        )
    folder.chmod(0o700)
    return folder


def why_not_writable(folder: Path, *, below: tuple[str, ...] = ()) -> str:
    """Say why no files can be made in a folder, which may be still to be made; "" if they can.

    Args:
        below: folders in it that are written too, where they exist.
    """
    try:
        for place in (folder, *(folder / name for name in below)):
            if place != folder and not place.exists():
                continue
            nearest = place
            while not nearest.exists():
                if nearest.is_symlink():
                    return f"{nearest} is a link to nothing"
                nearest = nearest.parent
            if not nearest.is_dir():
                return f"{nearest} is no folder"
            if not os.access(nearest, os.W_OK | os.X_OK):
                return f"{nearest} cannot be written"
    except OSError as error:  # a folder above it cannot be entered
        return f"{folder}: {error.strerror}"
    return ""
