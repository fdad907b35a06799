"""Tells exported models apart by what they compute, not by the bytes of their files."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GRAPH = "/models/"
"""In the name of a program's part that is its graph, as JSON."""

OF_ONE_WRITING = ("/.data/", "/data/sample_inputs/")
"""In the names of parts that say nothing of the computation."""

WHERE_IT_WAS_MADE = ("metadata", "nn_module_call_graph", "torch_version")
"""Keys of the graph whose values name the files, lines and versions that made the program."""

DECIDING = ("classes", "image_size", "fit", "storage_size", "deep_range", "thresholds")
"""Entries of the card that change what is answered for an image."""

FORMATS = "formats"
"""Entry of the card: of each other format of the same programs its files, and how it compares with them."""


def digest_content(programs: Sequence[Path], card: Path, *, whole_card: bool) -> str:
    """Hash weights, graph and card: equal for two exports of one classifier, wherever each was written.

    Args:
        whole_card: with the entries that only describe the model, such as its scores.

    Raises:
        FileNotFoundError: a file is missing.
    """
    digest = hashlib.sha256()
    for program in programs:
        for name, content in sorted(_digest_parts(program).items()):
            digest.update(f"{name}\n{content}\n".encode())
    digest.update(_digest_card(card, whole=whole_card).encode())
    return digest.hexdigest()[:16]


def _digest_parts(program: Path) -> dict[str, str]:
    """Hashes of a program's parts by their names; of a file that is no archive the hash of its bytes."""
    try:
        with zipfile.ZipFile(program) as archive:
            names = [one for one in archive.namelist() if not any(part in one for part in OF_ONE_WRITING)]
            return {name.partition("/")[2]: _digest_part(name, archive.read(name)) for name in names}
    except zipfile.BadZipFile:
        return {"": hashlib.sha256(program.read_bytes()).hexdigest()}


def _digest_part(name: str, content: bytes) -> str:
    if GRAPH in name and name.endswith(".json"):
        content = json.dumps(_without_origin(json.loads(content)), sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def _without_origin(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_origin(one) for key, one in value.items() if key not in WHERE_IT_WAS_MADE}
    return [_without_origin(one) for one in value] if isinstance(value, list) else value


def _digest_card(card: Path, *, whole: bool) -> str:
    content = card.read_bytes()
    try:
        found = json.loads(content)
    except ValueError:
        return hashlib.sha256(content).hexdigest()
    if isinstance(found, dict):
        found.pop(FORMATS, None)
        found = found if whole else {name: found.get(name) for name in DECIDING}
    return json.dumps(found, sort_keys=True)
