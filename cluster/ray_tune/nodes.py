"""The nodes of a joined cluster: what each has, and whether each sees the study and the data."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ANSWER_SECONDS = 120.0
"""A node's first worker has to unpack the code first."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node has to give."""

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


def check_paths(
    study_directory: Path, *, runs_flag: str = "--runs-dir", others: Iterable[tuple[str, str]]
) -> None:
    """Ask every node that can run trials whether it sees the study, and the paths of other flags.

    A file written here tells the shared directory from one that only has the same name.

    Raises:
        ValueError: the first path that is missing, on how many nodes, and what to do.
    """
    mark = study_directory / f".seen-{secrets.token_hex(4)}"
    wanted = [(flag, path, "") for flag, path in others]
    mark.write_text(mark.name, encoding="utf-8")
    try:
        wanted.insert(0, (runs_flag, str(mark), mark.name))
        nodes = [node for node in alive_nodes() if node.cpus or node.gpus]
        missing = _ask(nodes, [(path, text) for _, path, text in wanted])
    finally:
        mark.unlink(missing_ok=True)
    for flag, path, text in wanted:
        blind = [node.name for node in nodes if path in missing[node.node_id]]
        if blind:
            shown = str(study_directory.parent) if text else path
            raise ValueError(_describe(flag, shown, blind, num_nodes=len(nodes)))


def _ask(nodes: Sequence[Node], wanted: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Of each node, the paths that it does not see."""
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
    """Which of these paths do not exist here, or do not hold the text that they should."""
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
