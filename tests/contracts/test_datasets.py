"""Every data set by name: listed without torch, and the catalogue's errors are one line with a way out."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainables.data.datasets import find_images, names
from trainables.data.datasets.torchvision_sets import SETS

DOWNLOADED = tuple(name for name in names() if name in SETS)
OFFLINE = tuple(name for name in names() if name not in SETS)


@pytest.mark.parametrize("name", OFFLINE)
def test_a_set_that_ships_in_a_package_is_listed_whole_and_the_same_twice(name: str, tmp_path: Path) -> None:
    first = find_images(name, cache_dir=tmp_path)
    second = find_images(name, cache_dir=tmp_path)

    assert first.paths == second.paths
    assert all(path.is_absolute() and path.is_file() for path in first.paths)
    assert len(first.paths) == len(first.labels) == len(first.splits)
    assert set(first.labels.tolist()) == set(range(len(first.classes)))
    assert first.labels.dtype == np.int64


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_set_to_download_names_a_loader_that_exists(name: str) -> None:
    datasets = importlib.import_module("torchvision.datasets")

    assert hasattr(datasets, SETS[name].loader)
    assert set(SETS[name].splits) <= {"", "train", "val", "test"}


@pytest.mark.parametrize("name", DOWNLOADED)
def test_without_a_network_a_set_to_download_says_what_to_pass_instead(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # the discard port: nobody listens

    with pytest.raises(ValueError, match="without a network pass a folder") as refused:
        find_images(name, cache_dir=tmp_path)

    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_catalogue_is_read_without_importing_torch() -> None:
    program = (
        "import sys; from trainables.data import datasets, manifest, splits, views; datasets.names();"
        "from trainables.images import store as image_store;"
        "print([name for name in ('torch', 'torchvision', 'sklearn', 'timm', 'ray') if name in sys.modules])"
    )

    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert output.stdout.strip() == "[]"
