"""Hosts for tests: network namespaces on one bridge, each with a Ray node and a cable that can be cut."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
PORT = 26379
START_SECONDS = 90.0
RAY_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    # A silent node is given up after 6 seconds: Ray's own settings take up to a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "6",
}


def can_make_hosts() -> bool:
    """True if this process may make network namespaces."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"probe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", name], check=False).returncode == 0


class Hosts:
    """Hosts of a Ray cluster: on host 1 the head and the search's driver, on each other a CPU for trials."""

    def __init__(self, num: int, folder: Path) -> None:
        self.tag, self.folder = f"u{os.getpid() % 100_000}", folder
        self.temporary = tempfile.mkdtemp(prefix="unfreeze-", dir="/tmp")  # short: Ray's sockets lie in it
        self.numbers = range(1, num + 1)
        self.started: list[subprocess.Popen[bytes]] = []
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.environment |= RAY_SETTINGS | {"RAY_AUTH_TOKEN_PATH": str(token)}

    def start(self) -> None:
        self._link()
        for number in self.numbers:
            head = ("--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false")
            worker = (f"--address={self.address}", "--num-cpus=1")
            words = ["start", "--block", f"--node-ip-address={self._ip(number)}", "--num-gpus=0"]
            words += ["--object-store-memory=134217728", f"--temp-dir={self.temporary}/{number}"]
            words += head if number == 1 else worker
            self.run(number, ["-m", "ray.scripts.scripts", *words], log=f"{number}")
            if number == 1:
                self._wait_for_ray(number)
        for number in self.numbers[1:]:
            self._wait_for_ray(number)

    @property
    def address(self) -> str:
        return f"{self._ip(1)}:{PORT}"

    def name(self, number: int) -> str:
        return f"{self.tag}h{number}"

    def run(self, number: int, words: Sequence[str], *, log: str) -> subprocess.Popen[bytes]:
        """Start Python on a host, with its output in a log of that name."""
        # A host's name is its own: the study's lock and the trials' workers are told apart by it.
        script = 'hostname "$0"; exec "$@"'
        inside = ["unshare", "--uts", "sh", "-c", script, self.name(number), sys.executable, *words]
        with self.log(log).open("ab") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name(number), *inside],
                cwd=REPOSITORY,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def log(self, name: str) -> Path:
        return self.folder / f"host-{name}.log"

    def cut(self, number: int) -> None:
        """Pull the host's cable."""
        _ip("link", "set", self._cable(number), "down")

    def mend(self, number: int) -> None:
        _ip("link", "set", self._cable(number), "up")

    def close(self) -> None:
        """End every process of these hosts, and remove the hosts."""
        for number in self.numbers:
            found = _ip("netns", "pids", self.name(number), check=False).split()
            for process in found:
                os.kill(int(process), signal.SIGKILL)
        psutil.wait_procs([psutil.Process(p.pid) for p in self.started if p.poll() is None], timeout=5)
        for number in self.numbers:
            _ip("netns", "del", self.name(number), check=False)
        _ip("link", "del", f"{self.tag}br", check=False)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _link(self) -> None:
        _ip("link", "add", f"{self.tag}br", "type", "bridge")
        _ip("link", "set", f"{self.tag}br", "up")
        for number in self.numbers:
            host, cable = self.name(number), self._cable(number)
            _ip("netns", "add", host)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("link", "set", cable, "master", f"{self.tag}br", "up")
            _ip("-n", host, "addr", "add", f"{self._ip(number)}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", host, "link", "set", "lo", "up")

    def _wait_for_ray(self, number: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in self.log(f"{number}").read_text():
            assert time.monotonic() < deadline, self.log(f"{number}").read_text()
            time.sleep(0.2)

    def _cable(self, number: int) -> str:
        return f"{self.tag}v{number}"

    def _ip(self, number: int) -> str:
        return f"10.77.0.{number}"


def _ip(*words: str, check: bool = True) -> str:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True).stdout
