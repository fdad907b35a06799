"""The labelled image sets that torchvision downloads, by name, with the splits their authors gave them."""

from __future__ import annotations

import csv
import importlib
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contract.files import write_aside
from contract.study_layout import CachePaths
from trainables.data.datasets._listing import ImageListing
from trainables.data.datasets._table import list_table

TIMEOUT_SECONDS = 4.0


@dataclass(frozen=True)
class TorchvisionSet:
    """A class of torchvision.datasets and how to ask it for each split."""

    loader: str
    host: str
    """Server that it downloads from; asked first, so that a missing network is noticed within seconds."""

    splits: dict[str, dict[str, Any]]
    """Our split -> the arguments that select it; the key "" is still to be split."""

    options: dict[str, Any] = field(default_factory=dict)


_THREE = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_TWO = {"train": {"split": "train"}, "test": {"split": "test"}}
_FLAG = {"train": {"train": True}, "test": {"train": False}}
_OXFORD = "https://www.robots.ox.ac.uk"
_TORONTO = "https://www.cs.toronto.edu"

SETS = {
    "flowers102": TorchvisionSet("Flowers102", _OXFORD, _THREE),
    "imagenette": TorchvisionSet(
        "Imagenette",
        "https://s3.amazonaws.com",
        {"train": {"split": "train"}, "val": {"split": "val"}},
        {"size": "320px"},
    ),
    "cifar10": TorchvisionSet("CIFAR10", _TORONTO, _FLAG),
    "cifar100": TorchvisionSet("CIFAR100", _TORONTO, _FLAG),
    "oxford_pets": TorchvisionSet(
        "OxfordIIITPet",
        "https://thor.robots.ox.ac.uk",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
    ),
    "food101": TorchvisionSet("Food101", "http://data.vision.ee.ethz.ch", _TWO),
    "dtd": TorchvisionSet("DTD", _OXFORD, _THREE),
    "eurosat": TorchvisionSet("EuroSAT", "https://huggingface.co", {"": {}}),
    "stanford_cars": TorchvisionSet("StanfordCars", "https://ai.stanford.edu", _TWO),
    "fgvc_aircraft": TorchvisionSet("FGVCAircraft", _OXFORD, _THREE),
    "country211": TorchvisionSet(
        "Country211",
        "https://openaipublic.azureedge.net",
        {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}},
    ),
    "gtsrb": TorchvisionSet("GTSRB", "https://sid.erda.dk", _TWO),
    "stl10": TorchvisionSet("STL10", "http://ai.stanford.edu", _TWO),
    "svhn": TorchvisionSet("SVHN", "http://ufldl.stanford.edu", _TWO),
    "mnist": TorchvisionSet("MNIST", "https://ossci-datasets.s3.amazonaws.com", _FLAG),
    "fashion_mnist": TorchvisionSet(
        "FashionMNIST", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", _FLAG
    ),
}
NAMES = tuple(SETS)


def load_listing(name: str, *, cache_dir: Path) -> ImageListing:
    """List a data set. Its first use downloads it and writes listing.csv; later ones read only that file.

    Raises:
        ValueError: it is not there and cannot be downloaded.
    """
    root = CachePaths(cache_dir.absolute()).datasets / name
    listing = root / "listing.csv"
    if not listing.is_file():
        if not any(root.glob("*")):
            _check_reachable(name, SETS[name].host, root)
        _write_listing(listing, _load_rows(name, SETS[name], root))
    return list_table(listing)


def _load_rows(name: str, entry: TorchvisionSet, root: Path) -> list[tuple[str, str, str]]:
    loader = getattr(importlib.import_module("torchvision.datasets"), entry.loader)
    root.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str, str]] = []
    for split, arguments in entry.splits.items():
        options = {**entry.options, **arguments}
        try:
            dataset = _load_split(loader, root, options)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(_describe_failure(name, root, str(error).splitlines()[0])) from error
        pairs = _image_files(dataset)
        if pairs is None:
            pairs = _write_images(dataset, root / "images" / (split or "all"))
        classes = _class_names(dataset)
        rows.extend((str(path), classes[label] if classes else str(label), split) for path, label in pairs)
    return rows


def _load_split(loader: Any, root: Path, options: dict[str, Any]) -> Any:
    """Load from disk if possible: torchvision downloads some sets again although they are there."""
    try:
        return loader(str(root), download=False, **options)
    except (OSError, RuntimeError):
        return loader(str(root), download=True, **options)


def _image_files(dataset: Any) -> Sequence[tuple[Path, int]] | None:
    """(file, label) pairs of a data set that keeps files, else None; torchvision has four names for them."""
    for paths in ("_image_files", "_images"):
        if hasattr(dataset, paths):
            return list(zip(getattr(dataset, paths), dataset._labels, strict=True))
    for pairs in ("_samples", "samples"):
        if hasattr(dataset, pairs):
            return list(getattr(dataset, pairs))
    return None


def _write_images(dataset: Any, folder: Path) -> Sequence[tuple[Path, int]]:
    """Write the images of a set that keeps one array as PNG files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    def write() -> Iterator[tuple[Path, int]]:
        for number in range(len(dataset)):
            image, label = dataset[number]
            path = folder / f"{number:06d}.png"
            image.save(path)
            yield path, int(label)

    return list(write())


def _class_names(dataset: Any) -> list[str]:
    classes = getattr(dataset, "classes", None) or ()
    return [name if isinstance(name, str) else name[0] for name in classes]  # imagenette: a tuple of synonyms


def _write_listing(listing: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    with (
        write_aside(listing, durable=False) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as lines,
    ):
        writer = csv.writer(lines)
        writer.writerow(("path", "label", "split"))
        writer.writerows(rows)


def _check_reachable(name: str, host: str, root: Path) -> None:
    """Send the host a request, through the proxies of the environment: any answer means a network.

    Raises:
        ValueError: no answer in time.
    """
    answers: list[str] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(
                urllib.request.Request(host, method="HEAD"), timeout=TIMEOUT_SECONDS
            ).close()
            answers.append("")
        except urllib.error.HTTPError as error:
            # A proxy that refuses the host answers too: 403 and 407 with no way through, 502 to 504 upstream.
            answers.append("" if error.code not in (407, 502, 503, 504) else str(error))
        except (OSError, ValueError) as error:
            answers.append(str(getattr(error, "reason", error)))

    asking = threading.Thread(target=ask, daemon=True)  # a name server may keep us longer than the timeout
    asking.start()
    asking.join(TIMEOUT_SECONDS + 0.5)
    problem = answers[0] if answers else f"no answer within {TIMEOUT_SECONDS:.0f} s"
    if problem:
        raise ValueError(_describe_failure(name, root, f"{host}: {problem}"))


def _describe_failure(name: str, root: Path, problem: str) -> str:
    return (
        f"cannot download {name} ({problem}); without a network pass a folder of class folders, a CSV, or"
        f" digits (ships inside scikit-learn), or put the files torchvision expects into {root}"
    )
