"""A PostgreSQL server of its own in a temporary folder, which can be stopped and started."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def find_binaries() -> Path | None:
    """Find the folder of the server's programs; Debian keeps them out of PATH, one folder a version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


class Server:
    """A PostgreSQL with its default settings, whose data lie in a folder; it listens on loopback only."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        """Make an empty database; `folder` must be open to the user `postgres` where this process is root."""
        self.binaries, self.data = binaries, folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql+psycopg://tester@127.0.0.1:{self.port}/postgres"
        self._user = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root
        if self._user:
            entry = pwd.getpwnam(self._user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        self._run("initdb", "-D", str(self.data), "-U", "tester", "--auth=trust", "--no-sync")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.data}"
        self._run("pg_ctl", "-D", str(self.data), "-w", "-o", options, "-l", f"{self.data}/log", "start")

    def stop(self) -> None:
        """Stop at once, as in a crash."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "stop")

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(self.binaries / name), *arguments]
        subprocess.run(command, check=True, user=self._user, capture_output=True, cwd="/", timeout=60)


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server of its own for as long as this lasts.

    Raises:
        ValueError: PostgreSQL is not installed.
    """
    binaries = find_binaries()
    if binaries is None:
        raise ValueError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # Not below a folder that is closed to other users: where this process is root, the server is one.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        server = Server(binaries, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
