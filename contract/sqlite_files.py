"""Names SQLite files in URLs, recognises those on network file systems, and gives them their journal.

A write-ahead log needs memory that all processes share, which a network file system does not give:
https://sqlite.org/wal.html, "WAL does not work over a network filesystem".
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

NETWORK_FILE_SYSTEMS = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb2",
        "smb3",
        "smbfs",
        "afs",
        "afpfs",
        "webdav",
        "9p",
        "virtiofs",
        "vboxsf",
        "fuse",
        "macfuse",
        "osxfuse",
        "lustre",
        "gpfs",
        "beegfs",
        "beegfs_nodev",
        "ceph",
        "glusterfs",
        "orangefs",
        "pvfs2",
        "ocfs2",
        "gfs2",
    ]
)
LOCAL_FUSE = frozenset(("fuse.fuse-overlayfs", "fuse.overlayfs", "fuse.ext2", "fuse.ntfs-3g"))
"""File systems of this machine's own disks that happen to run through FUSE; every other one may be remote."""

_VERSION_BYTES = slice(18, 20)
"""Position in a database file of two bytes: both are 2 if it has a write-ahead log, else 1."""

MOST_PATH_BYTES = 500
"""Most bytes of a database file's path: SQLite takes 512, with -journal behind it."""

_URL = re.compile(r"sqlite(?:\+\w+)?:///([^?]*)", flags=re.IGNORECASE)


def sqlite_url(path: Path) -> str:
    """Build the URL of a database file, whatever characters its name holds.

    Only % and ? must be encoded. MLflow makes the folder of a URL's path as it is written, so that an encoded
    letter would leave an empty folder of that name.
    """
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


def sqlite_path(url: str) -> Path | None:
    """Return the file that a database URL names; None for another database and for one in memory.

    A file of the name as it is written wins where none has the decoded name: URLs were once not encoded.
    """
    match = _URL.match(url)
    if not match or match[1] in ("", ":memory:"):
        return None
    written = match[1].removeprefix("file:")
    decoded, plain = Path(unquote(written)), Path(written)
    return plain if plain.exists() and not decoded.exists() else decoded


def read_only_uri(path: Path, *, immutable: bool = False) -> str:
    """Build the URI by which sqlite3 opens a file without writing to it.

    Args:
        immutable: nobody writes the file, so that it is read without locks.
    """
    return f"file:{quote(os.fsencode(path))}?mode=ro{'&immutable=1' if immutable else ''}"


def network_file_system(path: Path) -> str | None:
    """Return the network file system that `path` lies on, such as nfs4; None on a disk of this machine."""
    import psutil

    place = path.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if place.is_relative_to(mount.mountpoint)]
    # The innermost mount holds the path; of several at one place, the last hides those before it.
    mounts.sort(key=lambda mount: len(Path(mount.mountpoint).parts))
    kind = str(mounts[-1].fstype).lower() if mounts else ""
    is_remote = kind in NETWORK_FILE_SYSTEMS or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)
    return kind if is_remote else None


def has_write_ahead_log(path: Path) -> bool:
    """True if SQLite would use a write-ahead log for this file; false for one that does not exist yet."""
    try:
        with path.open("rb") as file:
            return file.read(_VERSION_BYTES.stop)[_VERSION_BYTES] == b"\x02\x02"
    except FileNotFoundError:
        return False


def remove_write_ahead_log(path: Path, *, timeout_seconds: float) -> None:
    """Merge the write-ahead log into the database, and use a rollback journal from now on.

    Raises:
        sqlite3.OperationalError: another process has the file open.
    """
    if not has_write_ahead_log(path):
        return
    with closing(sqlite3.connect(path, timeout=timeout_seconds)) as connection:
        # Alone with the file, SQLite keeps the log's index in its own memory instead of in shared memory.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=DELETE")
