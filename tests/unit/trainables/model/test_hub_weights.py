"""Weights from a hub: located once, the same commit on every node, and found again without the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from contract.weights_source import WeightsSource
from tests.stand_in_hub import StandInHub, point_at, stand_in_hub
from trainables.model import downloads
from trainables.model.backbones import find_backbone
from trainables.model.downloads import Unreachable
from trainables.model.networks import make_backbone
from trainables.model.weights import fetch_weights, is_here, load_weights, locate_weights

ROW = find_backbone("resnet18")
REPOSITORY = "timm/resnet18.a1_in1k"


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with stand_in_hub() as hub:
        yield hub


@pytest.fixture
def cache(hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    point_at(monkeypatch, hub.endpoint, tmp_path / "node")
    return tmp_path / "node"


def content_of(seed: int) -> bytes:
    return save(make_backbone(ROW, seed=seed).state_dict())


def bytes_of(seed: int) -> bytes:
    """Stands for a file of weights where none is loaded."""
    return np.random.default_rng(seed).bytes(2**20)


def blobs(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and "blobs" in path.parts]


def loaded(source: WeightsSource) -> torch.Tensor:
    module = make_backbone(ROW, seed=99)
    load_weights(module, source)
    return module.get_parameter("conv1.weight").detach()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_first_run_notes_commit_and_digest_and_downloads_once(
    hub: StandInHub, cache: Path, name: str
) -> None:
    content = bytes_of(1)
    revision = hub.commit(REPOSITORY, content, name=name)

    located = locate_weights(ROW, "auto")
    before = is_here(located)
    fetched = fetch_weights(located)
    asked = len(hub.requests)
    again = fetch_weights(fetched)

    assert (located.kind, located.location, located.revision, located.file) == (
        "hub",
        REPOSITORY,
        revision,
        name,
    )
    assert fetched.digest == located.digest == hashlib.sha256(content).hexdigest()
    assert not before and is_here(fetched) and again == fetched
    assert len(hub.requests) == asked


def test_a_later_run_finds_what_was_downloaded_though_the_hub_is_gone(hub: StandInHub, cache: Path) -> None:
    hub.commit(REPOSITORY, bytes_of(1))
    first = fetch_weights(locate_weights(ROW, "auto"))
    hub.stop()

    second = fetch_weights(locate_weights(ROW, "auto"))

    assert second == first


def test_hub_offline_finds_the_download_and_says_so_where_there_is_none(
    hub: StandInHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(REPOSITORY, bytes_of(1))
    first = fetch_weights(locate_weights(ROW, "auto"))
    asked = len(hub.requests)
    point_at(monkeypatch, hub.endpoint, cache, offline=True)

    assert fetch_weights(locate_weights(ROW, "auto")) == first
    with pytest.raises(ValueError, match=r"HF_HUB_OFFLINE.*--weights PATH"):
        locate_weights(find_backbone("resnet34"), "auto")
    assert len(hub.requests) == asked


def test_a_continued_study_keeps_its_commit_when_the_hub_has_a_newer_one(
    hub: StandInHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(REPOSITORY, bytes_of(1))
    recorded = fetch_weights(locate_weights(ROW, "auto"))
    newer = hub.commit(REPOSITORY, bytes_of(2))

    continued = locate_weights(ROW, "auto", recorded=WeightsSource(**asdict(recorded)))
    point_at(monkeypatch, hub.endpoint, tmp_path / "another node")
    fetched = fetch_weights(continued)
    fresh = locate_weights(ROW, "auto", recorded=None)

    assert fetched == recorded
    assert fresh.revision == recorded.revision != newer  # on this node, too, the download counts


def test_two_nodes_load_the_same_numbers_while_the_hub_moves_on(
    hub: StandInHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(REPOSITORY, content_of(1))
    source = fetch_weights(locate_weights(ROW, "auto"))
    first = loaded(source)
    hub.commit(REPOSITORY, content_of(2))
    point_at(monkeypatch, hub.endpoint, tmp_path / "other")

    second = loaded(source)

    assert torch.equal(first, second)
    assert torch.equal(first, make_backbone(ROW, seed=1).get_parameter("conv1.weight"))


def test_a_file_with_another_digest_is_refused_in_one_line(hub: StandInHub, cache: Path) -> None:
    hub.commit(REPOSITORY, content_of(1))
    source = fetch_weights(locate_weights(ROW, "auto"))

    with pytest.raises(ValueError, match=r"sha256 .* not 0{12}.*delete") as caught:
        loaded(replace(source, digest="0" * 64))

    assert "\n" not in str(caught.value)


def test_a_file_that_was_damaged_on_disk_is_refused(hub: StandInHub, cache: Path) -> None:
    hub.commit(REPOSITORY, bytes_of(1))
    fetch_weights(locate_weights(ROW, "auto"))
    (blob,) = blobs(cache)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)

    with pytest.raises(ValueError, match="damaged"):
        fetch_weights(locate_weights(ROW, "auto"))


def test_a_hub_that_hangs_is_given_up_with_one_line_of_advice(
    hub: StandInHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(REPOSITORY, bytes_of(1))
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.2)
    hub.fails = "hang"

    with pytest.raises(ValueError, match=r"does not answer.*--weights random") as caught:
        locate_weights(ROW, "auto")

    assert "\n" not in str(caught.value)


def test_a_transfer_that_stands_still_is_given_up_and_succeeds_later(
    hub: StandInHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(REPOSITORY, bytes_of(1))
    source = locate_weights(ROW, "auto")
    monkeypatch.setattr(downloads, "STALL_SECONDS", 0.3)
    hub.fails = "hang in the middle"

    with pytest.raises(Unreachable, match=r"no progress for 0.3 s.*hf download") as caught:
        fetch_weights(source)

    hub.fails = ""
    hub.ending.set()
    monkeypatch.undo()
    point_at(monkeypatch, hub.endpoint, cache)
    assert "\n" not in str(caught.value)
    assert not is_here(source)
    assert fetch_weights(source).digest == source.digest


@pytest.mark.slow  # the client tries six times, a second apart
def test_a_cut_transfer_ends_in_one_line_leaves_nothing_and_succeeds_later(
    hub: StandInHub, cache: Path
) -> None:
    hub.commit(REPOSITORY, bytes_of(1))
    source = locate_weights(ROW, "auto")
    hub.fails = "cut"

    with pytest.raises(Unreachable, match=r"could not be downloaded.*run the same command again") as caught:
        fetch_weights(source)

    left = blobs(cache)
    hub.fails = ""
    assert "\n" not in str(caught.value)
    assert not left and not is_here(source)
    assert fetch_weights(source).digest == source.digest


def test_a_repository_that_the_hub_lacks_is_said_to_be_refused(hub: StandInHub, cache: Path) -> None:
    with pytest.raises(ValueError, match=r"refuses timm/resnet18.a1_in1k \(status 404.*--weights random"):
        locate_weights(ROW, "auto")


def test_a_timm_model_of_another_owner_is_looked_for_there(hub: StandInHub, cache: Path) -> None:
    row = find_backbone("rdnet_tiny.nv_in1k")
    hub.commit("naver-ai/rdnet_tiny.nv_in1k", b"any")

    assert locate_weights(row, "auto").location == "naver-ai/rdnet_tiny.nv_in1k"
