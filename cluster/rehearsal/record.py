"""The record of a rehearsal that `up` leaves for the other commands: addresses, token, nodes' processes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil

from contract.files import save_json


@dataclass(frozen=True, kw_only=True)
class NodeProcess:
    """A node's first process; its start time tells it from a later process of the same number."""

    number: int
    pid: int
    started: float
    cpus: int


@dataclass(frozen=True, kw_only=True)
class ClusterRecord:
    """A cluster that `up` started on this machine."""

    host: str
    gcs_port: int
    dashboard_port: int
    temp_dir: str
    """Ray's own files; deleted by `down`."""

    state_dir: str
    nodes: tuple[NodeProcess, ...] = field(default=())

    @property
    def address(self) -> str:
        """URL of the job server."""
        return f"http://{self.host}:{self.dashboard_port}"

    @property
    def token_file(self) -> Path:
        return Path(self.state_dir) / "token"

    @property
    def on_loopback(self) -> bool:
        return self.host == "127.0.0.1"

    def environment(self) -> dict[str, str]:
        """Variables with which Ray's own commands reach the cluster."""
        values = {
            "RAY_ADDRESS": f"{self.host}:{self.gcs_port}",
            "RAY_API_SERVER_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
        }
        # Without it Ray looks for 127.0.0.1 under the machine's outer address (see node.py).
        return values | ({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if self.on_loopback else {})

    def with_nodes(self, *nodes: NodeProcess) -> ClusterRecord:
        return replace(self, nodes=tuple(nodes))


def default_state_dir() -> Path:
    """Return $XDG_STATE_HOME/unfreeze, else ~/.unfreeze."""
    home = os.environ.get("XDG_STATE_HOME")
    return Path(home) / "unfreeze" if home else Path.home() / ".unfreeze"


def read_record(state_dir: Path) -> ClusterRecord | None:
    """The cluster that `up` has recorded there, alive or not; None if there is no record.

    Raises:
        ValueError: the record cannot be read.
    """
    path = record_file(state_dir)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        nodes = tuple(NodeProcess(**node) for node in content.pop("nodes"))
        return ClusterRecord(**content, nodes=nodes)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}): delete it") from None


def record_file(state_dir: Path) -> Path:
    return state_dir / "cluster.json"


def write_record(record: ClusterRecord) -> None:
    save_json(record_file(Path(record.state_dir)), asdict(record), durable=False)


def find_process(node: NodeProcess) -> psutil.Process | None:
    """The node's first process; None once it has ended."""
    try:
        process = psutil.Process(node.pid)
        same = abs(process.create_time() - node.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def find_processes(node: NodeProcess) -> list[psutil.Process]:
    """Find every process of a node: the descendants of its first one, and what shares its session.

    Each node is started as a session of its own, so no process of another program is among them.
    """
    first = find_process(node)
    found = {} if first is None else {process.pid: process for process in [first, *_descendants(first)]}
    for process in psutil.process_iter():
        try:
            in_session = os.getsid(process.pid) == node.pid and process.create_time() >= node.started - 1
        except (OSError, psutil.NoSuchProcess):
            continue
        if in_session:
            found[process.pid] = process
    return list(found.values())


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []
