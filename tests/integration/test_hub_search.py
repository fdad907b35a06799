"""A search over a network of the hub, as a user starts it: first with the hub, then without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save

from tests.stand_in_hub import stand_in_hub
from tests.tiny_data import write_images

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
REPOSITORY = "timm/resnet18.a1_in1k"


def random_weights() -> bytes:
    """The file's tensors as timm names them, about 45 MB of random numbers, with a small classifier."""
    torch.manual_seed(1)
    return save(timm.create_model("resnet18", num_classes=10).state_dict())


def search(folder: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = ["--space", "finetune", "--backbones", "resnet18", "--image-size", "32", "--max-epochs", "1"]
    words += ["--data", str(folder / "images"), "--study", "mine", "--runs-dir", str(folder / "runs")]
    words += ["--cache-dir", str(folder / "cache"), *flags]
    return subprocess.run(
        [sys.executable, "tune.py", *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.timeout(900)
def test_a_search_over_a_network_of_the_hub_ends_and_is_continued_without_it(
    tmp_path: Path, full: bool
) -> None:
    write_images(tmp_path / "images")
    with stand_in_hub() as hub:
        first_commit = hub.commit(REPOSITORY, random_weights())
        place = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        first = search(tmp_path, "--trials", "1", **place)
        recorded = json.loads((tmp_path / "runs/mine/study.json").read_text())["backbone_weights"]
        hub.commit(REPOSITORY, b"a newer commit, which nobody may ask for")
        asked = len(hub.requests)
        second = search(tmp_path, "--trials", "2", **place)
        asked_again = hub.requests[asked:]
    elsewhere = search(tmp_path, "--trials", "3", HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "empty"))

    assert first.returncode == 0, first.stdout + first.stderr
    assert (recorded["resnet18"]["revision"], recorded["resnet18"]["kind"]) == (first_commit, "hub")
    assert (tmp_path / "runs/mine/model/classifier.pt2").exists()
    assert second.returncode == 0, second.stdout + second.stderr
    assert asked_again == []
    assert json.loads((tmp_path / "runs/mine/study.json").read_text())["backbone_weights"] == recorded
    assert elsewhere.returncode == 2, elsewhere.stdout + elsewhere.stderr
    assert len(elsewhere.stderr.strip().splitlines()) == 1 and "hf download" in elsewhere.stderr
    if full:  # by default test_hub_weights.py has the variable's proof
        offline = search(tmp_path, "--trials", "2", **place, HF_HUB_OFFLINE="1")
        assert offline.returncode == 0 and "is finished" in offline.stdout, offline.stderr
