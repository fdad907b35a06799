"""The nodes of a joined cluster: what each has, how many trials fit, and whether each sees the study."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.ray_tune.resources import Resources
from contract.study_layout import StudyPaths

ANSWER_SECONDS = 120.0
"""Longest wait, in seconds, for the answer of a node, whose first worker has to unpack the code."""
LOOK_SECONDS = 2.0
"""Seconds for which the count of trials that fit stays valid."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that is alive, with all its CPUs and GPUs, whether in use or not."""

    node_id: str
    name: str
    cpus: float
    gpus: float


def alive_nodes() -> tuple[Node, ...]:
    return tuple(
        Node(
            node_id=node["NodeID"],
            name=f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            cpus=node["Resources"].get("CPU", 0),
            gpus=node["Resources"].get("GPU", 0),
        )
        for node in ray.nodes()
        if node["Alive"]
    )


def check_paths(study: StudyPaths, *, others: Iterable[tuple[str, str]]) -> None:
    """Ask every node that can run trials whether it sees the study, and the paths of other flags.

    A file written here tells the shared directory from one that only has the same name.

    Args:
        others: (flag, path).

    Raises:
        ValueError: the first path that is missing, on how many nodes, and what to do.
    """
    mark = study.node_mark(secrets.token_hex(4))
    wanted = [(flag, path, "") for flag, path in others]
    mark.write_text(mark.name, encoding="utf-8")
    try:
        wanted.insert(0, ("--runs-dir", str(mark), mark.name))
        nodes = [node for node in alive_nodes() if node.cpus or node.gpus]
        missing = _ask(nodes, [(path, text) for _, path, text in wanted])
    finally:
        mark.unlink(missing_ok=True)
    for flag, path, text in wanted:
        blind = [node.name for node in nodes if path in missing[node.node_id]]
        if blind:
            shown = str(study.directory.parent) if text else path
            raise ValueError(_describe(flag, shown, blind, num_nodes=len(nodes)))


def _ask(nodes: Sequence[Node], wanted: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Map each node id to those of the `wanted` (path, text) whose path the node does not see."""
    task = ray.remote(num_cpus=0, max_retries=0)(find_missing)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(
            wanted
        ): node
        for node in nodes
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    if silent:
        names = ", ".join(asked[one].name for one in silent)
        raise ValueError(f"no answer within {ANSWER_SECONDS:.0f} s from {names}: is it busy or gone?")
    missing = {}
    for one in answered:
        try:
            missing[asked[one].node_id] = ray.get(one)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"{asked[one].name} cannot run this project: {reason}") from None
    return missing


def find_missing(wanted: Iterable[tuple[str, str]]) -> list[str]:
    """List the `wanted` paths that do not exist on this node, or do not hold the text that they should."""
    return [path for path, text in wanted if not _holds(Path(path), text)]


def _holds(path: Path, text: str) -> bool:
    if path.is_file() and text:
        return path.read_text(encoding="utf-8") == text
    # A parent's listing refreshes what NFS remembers as missing.
    return path.exists() or (path.parent.is_dir() and path in path.parent.iterdir())


def _describe(flag: str, path: str, blind: Sequence[str], *, num_nodes: int) -> str:
    named = ", ".join(blind[:3]) + (", …" if len(blind) > 3 else "")
    how = (
        "it must be one directory that all nodes share" if flag == "--runs-dir" else "every node must see it"
    )
    return f"{flag} {path} is not seen by {len(blind)} of {num_nodes} nodes ({named}): {how}"


@contextmanager
def elastic_slots(
    resources: Resources, *, ask_for: int, say: Callable[[str], None]
) -> Iterator[Callable[[], int]]:
    """A function that says how many trials fit on the nodes that are alive now.

    A cluster that can grow is asked for places of `ask_for` trials, as long as the context is open; one that
    cannot grow ignores it. 0 asks for nothing.
    """
    if ask_for:
        _request(resources, num_trials=ask_for)
    slots = _ElasticSlots(resources)
    if slots.fitting() == 0:
        say("no node can take a trial yet: the cluster is asked for more")
    try:
        yield slots.count
    finally:
        if ask_for and ray.is_initialized():
            _request(resources, num_trials=0)


class _ElasticSlots:
    """A count of the trials that fit, renewed when it is older than LOOK_SECONDS."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._slots, self._looked = resources.slots or 1, time.monotonic()

    def count(self) -> int:
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            # Never none: a lease that waits is how a cluster without a free node shows what it lacks.
            self._slots = max(1, self.fitting())
            self._looked = time.monotonic()
        return self._slots

    def fitting(self) -> int:
        return self._resources.count_slots([(node.cpus, node.gpus) for node in alive_nodes()])


def _request(resources: Resources, *, num_trials: int) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[resources.of_worker] * (num_trials * resources.workers_per_trial))
