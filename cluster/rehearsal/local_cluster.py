"""Starts, changes and ends the nodes of a rehearsal; each node is a session of processes of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence, Set
from pathlib import Path

import psutil

from cluster.jobs.server import JobServer, JobServerError
from cluster.ray_tune.upload import PROJECT
from cluster.rehearsal.record import (
    ClusterRecord,
    NodeProcess,
    find_process,
    find_processes,
    read_record,
    record_file,
    write_record,
)
from contract.machine import count_gpus

START_SECONDS = 120.0
"""Longest wait, in seconds, for all nodes to join."""

STOP_SECONDS = 10.0
"""Longest wait, in seconds, for jobs and workers to end before they are killed."""

OBJECT_STORE_BYTES = 128 * 2**20
HEAD = 0
"""Number of the head node."""

_LOOPBACK = "127.0.0.1"


def start_cluster(
    *, num_nodes: int, cpus_per_node: int, state_dir: Path, host: str = _LOOPBACK, say: Callable[[str], None]
) -> ClusterRecord:
    """Start a head and the other nodes, and wait until all have joined.

    Raises:
        ValueError: one is running already, or a node does not start.
    """
    before = read_record(state_dir)
    if before is not None and any(find_process(node) for node in before.nodes if node.number == HEAD):
        raise ValueError(f"a cluster is running already at {before.address}: python -m cluster down ends it")
    if before is not None:  # without a head the other nodes are of no use
        stop_cluster(before)
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    record = ClusterRecord(
        host=host,
        gcs_port=_free_port(),
        dashboard_port=_free_port(),
        # Short: the path of a Unix socket has at most 107 characters.
        temp_dir=tempfile.mkdtemp(prefix="unfreeze-", dir="/tmp"),
        state_dir=str(state_dir.absolute()),
    )
    _write_secret(record.token_file, secrets.token_hex(32))
    try:
        record = _start(record, [HEAD], cpus=cpus_per_node)
        wait_for_nodes(record, 1)
        say(f"head is up at {record.address}")
        record = _start(record, range(1, num_nodes), cpus=cpus_per_node)
        wait_for_nodes(record, num_nodes)
    except BaseException:
        stop_cluster(record)
        raise
    return record


def add_node(record: ClusterRecord, *, cpus: int) -> ClusterRecord:
    """Start one more node and wait until it has joined."""
    before = alive_nodes(record)
    number = 1 + max(node.number for node in record.nodes)
    record = _start(record, [number], cpus=cpus)
    wait_for_nodes(record, 1, besides=before)
    return record


def kill_node(record: ClusterRecord, number: int) -> None:
    """Kill every process of a node at once, as a power cut would.

    Raises:
        ValueError: there is no such node, or it has ended already.
    """
    node = next((node for node in record.nodes if node.number == number), None)
    if node is None or find_process(node) is None:
        running = ", ".join(str(node.number) for node in record.nodes if find_process(node))
        raise ValueError(f"no node {number} is running; there are: {running or 'none'}")
    _end(find_processes(node), psutil.Process.kill)


def stop_cluster(record: ClusterRecord) -> None:
    """End the processes of this cluster, and no others; delete what Ray and `up` have left behind."""
    processes = [process for node in record.nodes for process in find_processes(node)]
    # Ray's servers would take all of the time; what they have written is deleted anyway.
    servers = {process.pid for node in record.nodes for process in _servers(node)}
    _end(processes, psutil.Process.terminate)
    _wait_for_end([process for process in processes if process.pid not in servers])
    late = [process for node in record.nodes for process in find_processes(node)]
    _end({*processes, *late}, psutil.Process.kill)
    shutil.rmtree(record.temp_dir, ignore_errors=True)
    record.token_file.unlink(missing_ok=True)
    record_file(Path(record.state_dir)).unlink(missing_ok=True)


def alive_nodes(record: ClusterRecord) -> set[str]:
    """List the nodes that the cluster believes to be alive; a killed one stays some seconds longer."""
    return JobServer(record.address, token=record.token_file.read_text(encoding="utf-8")).alive_nodes()


def wait_for_nodes(record: ClusterRecord, num: int, *, besides: Set[str] = frozenset()) -> None:
    """Return once `num` nodes have joined, not counting those in `besides`.

    Raises:
        ValueError: a node has ended, with the last line of its log; or START_SECONDS have passed.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if len(alive_nodes(record) - besides) >= num:
                return
        except JobServerError:
            pass  # not up yet
        dead = [node for node in record.nodes if find_process(node) is None]
        if dead and dead[-1] == record.nodes[-1]:
            raise ValueError(f"node {dead[-1].number} did not start: {_last_line(record, dead[-1].number)}")
        time.sleep(0.25)
    raise ValueError(f"the nodes have not joined within {START_SECONDS:.0f} s; see {_log(record, HEAD)}")


def _start(record: ClusterRecord, numbers: Sequence[int], *, cpus: int) -> ClusterRecord:
    """Start nodes, and record each at once, so that `down` finds it whatever happens next."""
    for number in numbers:
        pid = _spawn(record, number, cpus=cpus)
        node = NodeProcess(number=number, pid=pid, started=psutil.Process(pid).create_time(), cpus=cpus)
        record = record.with_nodes(*record.nodes, node)
        write_record(record)
    return record


def _spawn(record: ClusterRecord, number: int, *, cpus: int) -> int:
    command = [
        sys.executable,
        "-m",
        "cluster.rehearsal.node" if record.on_loopback else "ray.scripts.scripts",
    ]
    command += ["start", "--block", "--disable-usage-stats", f"--node-ip-address={record.host}"]
    command += [f"--num-cpus={cpus}", f"--num-gpus={count_gpus() if number == HEAD else 0}"]
    command += [
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--dashboard-agent-listen-port={_free_port()}",
    ]
    # With a folder in common, one node would unpack a job's code over that which another's processes run.
    command += [f"--temp-dir={record.temp_dir}/{number}"]
    if number == HEAD:
        command += ["--head", f"--port={record.gcs_port}"]
        command += [f"--dashboard-host={record.host}", f"--dashboard-port={record.dashboard_port}"]
        command += [f"--ray-client-server-port={_free_port()}"]
    else:
        command += [f"--address={record.host}:{record.gcs_port}"]
    with _log(record, number).open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=_node_environment(record),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process.pid


def _node_environment(record: ClusterRecord) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= record.environment() | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    # A node gets the address as a flag; these two are for commands that look for a cluster.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        del environment[name]
    # The job's `python` is this one.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):
        # Some containers forbid bytecode; then every worker compiles torch and timm anew (14 s, not 5).
        environment.setdefault("PYTHONPYCACHEPREFIX", str(Path(record.state_dir) / "bytecode"))
    return environment


def _end(
    processes: Sequence[psutil.Process] | set[psutil.Process], how: Callable[[psutil.Process], None]
) -> None:
    for process in processes:
        try:
            how(process)
        except psutil.NoSuchProcess:
            continue


def _servers(node: NodeProcess) -> list[psutil.Process]:
    """Find what Ray itself runs on a node: its first process, the children of that, and their agents."""
    first = find_process(node)
    if first is None:
        return []
    try:
        children = first.children()
        agents = [one for child in children for one in child.children() if one.name().endswith("Agent")]
    except psutil.NoSuchProcess:  # the node is ending already: it is waited for
        return []
    return [first, *children, *agents]


def _wait_for_end(processes: Sequence[psutil.Process]) -> None:
    """Return once all have ended, or STOP_SECONDS have passed; a zombie, which Ray leaves, has ended."""
    deadline = time.monotonic() + STOP_SECONDS
    while any(map(_is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    """A port that the system gives, so above Ray's range for workers (10002 to 19999)."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _log(record: ClusterRecord, number: int) -> Path:
    return Path(record.state_dir) / f"node-{number}.log"


def _last_line(record: ClusterRecord, number: int) -> str:
    lines = _log(record, number).read_text(errors="replace", encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else f"see {_log(record, number)}"
