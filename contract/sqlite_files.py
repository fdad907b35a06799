"""Recognises SQLite files on network file systems, and gives them the journal that works there.

A write-ahead log needs memory that all processes share, which a network file system does not give:
https://sqlite.org/wal.html, "WAL does not work over a network filesystem".
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

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
