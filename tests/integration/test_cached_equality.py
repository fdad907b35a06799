"""What a trial computes from cached activations is what the whole network would compute from the images."""

from __future__ import annotations

import copy
import csv
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contract.messages import StudySettings
from tests.lone_trial import Metrics, run_alone
from tests.tiny_data import make_lease, make_settings
from trainables.activations.shared import open_cache
from trainables.data.synthetic import SyntheticTable
from trainables.images.decoding import digest_of
from trainables.model.backbones import find_backbone
from trainables.model.networks import make_backbone, normalisation
from trainables.model.stages import trainable_names
from trainables.model.weights import load_weights
from trainables.run import TrialRun
from trainables.training.imbalance import draw_order
from trainables.training.loop import cut_batches

FLOWERS = Path(os.environ.get("UNFREEZE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "flowers5"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> StudySettings:
    """A study on real photos, 16 of each class for training and 8 for validation (--full: 96 and 24)."""
    if not FLOWERS.is_dir():
        pytest.skip("no photos: $UNFREEZE_DATA/flowers5 is missing")
    folder = tmp_path_factory.mktemp("photos")
    is_full = bool(request.config.getoption("--full"))
    counts = {"train": 96, "val": 24, "test": 1} if is_full else {"train": 16, "val": 8, "test": 1}
    with (folder / "photos.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "split"))
        for label in sorted(path for path in FLOWERS.iterdir() if path.is_dir()):
            images = iter(sorted(label.iterdir()))
            for split, count in counts.items():
                table.writerows((next(images), label.name, split) for _ in range(count))
    size = 128 if is_full else 64
    settings = make_settings(folder, source=folder / "photos.csv", fits=("crop",), image_size=size)
    add_other_photos(settings)
    return settings


def add_other_photos(settings: StudySettings) -> None:
    """Let the last five photos of two classes be the study's synthetic images."""
    chosen = [(label, path) for label in (1, 3) for path in last_photos(settings.classes[label])]
    SyntheticTable(
        paths=tuple(path for _, path in chosen),
        labels=np.array([label for label, _ in chosen]),
        digests=tuple(digest_of(path.read_bytes()) for _, path in chosen),
    ).write_csv(settings.paths.synthetic)


def last_photos(name: str) -> list[Path]:
    return sorted((FLOWERS / name).iterdir())[-5:]


def run_trial(settings: StudySettings, number: int = 0, **config: Any) -> Metrics:
    """The metrics of all epochs, less those that are measured."""
    return run_alone(settings, make_lease(number, **config))


class WholeNetwork:
    """The trial as one would write it without us: every image through the whole network, in float32.

    It shares with the trial what chance decides: views, the head's first weights, the order of the images,
    and the seed of each epoch's dropout.
    """

    def __init__(self, settings: StudySettings, number: int = 0, **config: Any) -> None:
        self.run = run = TrialRun(make_lease(number, **config), settings)
        backbone = find_backbone(run.config.backbone)
        self.backbone = make_backbone(backbone, image_size=settings.image_size)
        load_weights(self.backbone, run.weights)
        self.head = copy.deepcopy(run.classifier.head)
        mean, std = normalisation(self.backbone)
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))
        names = trainable_names(self.backbone, run.phase.depth)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name in names)
        parameters = [value for value in self.backbone.parameters() if value.requires_grad]
        kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[run.config.optimizer]
        extra = {"momentum": 0.9} if run.config.optimizer == "sgd" else {"weight_decay": 0.0}
        rate = run.config.learning_rate * run.phase.learning_rate_factor
        self.optimizer = kind([*parameters, *self.head.parameters()], lr=rate, **extra)  # type: ignore[arg-type]
        self.step = 0

    def train_mode(self) -> None:
        """The head, and of the backbone what trains: elsewhere batch norm keeps its statistics."""
        self.head.train()
        self.backbone.eval()
        for module in self.backbone.modules():
            own = list(module.parameters(recurse=False))
            is_still = isinstance(module, nn.BatchNorm2d) and self.run.config.frozen_batch_norm
            module.training = bool(own) and own[0].requires_grad and not is_still

    def logits(self, split: str, positions: np.ndarray, *, epoch: int) -> tuple[Tensor, Tensor]:
        inputs = self.run.inputs[split]
        view, data = inputs.view, inputs.split
        images = view.images(data, positions, epoch=view.number(epoch), device=torch.device("cpu"))
        return self.head(self.backbone((images - self.mean) / self.std)), data.labels[positions]

    def train_epoch(self, epoch: int) -> list[float]:
        """The loss of every update."""
        run, losses = self.run, []
        generator = torch.Generator().manual_seed(run._draw_seed("epoch", epoch))
        order = draw_order(run.train_labels, run.config.sampler, generator)
        batches = cut_batches(order, size=run.config.batch_size, limit=run.config.steps_per_epoch)
        _, seed = (int(torch.randint(2**62, (), generator=generator)) for _ in range(2))
        torch.manual_seed(seed)
        self.train_mode()
        for positions in batches:
            for group in self.optimizer.param_groups:
                group["lr"] = group.setdefault("peak", group["lr"])
                group["lr"] = group["peak"] * (run.schedule.multiplier(self.step) or 0.0)
            loss = functional.cross_entropy(*self.logits("train", positions, epoch=epoch))
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.step += 1
            losses.append(loss.item())
        return losses

    @torch.no_grad()
    def validate(self) -> tuple[float, int]:
        """Loss, and how many images are right."""
        self.head.eval()
        self.backbone.eval()
        logits, labels = self.logits("val", self.run.validated, epoch=0)
        return functional.cross_entropy(logits, labels).item(), int((logits.argmax(1) == labels).sum())


def assert_cached(settings: StudySettings) -> None:
    cache = open_cache(settings.cache_directory, settings.cache_gigabytes)
    assert cache is not None
    assert cache.stats().chunks_computed > 0


ONE_STEP = {"max_epochs": 1, "steps_per_epoch": 1, "batch_size": 16, "dropout": 0.2, "policy": "light"}
FIRST_STEPS: list[dict[str, Any]] = [
    {"regime": "linear_probe", "unfreeze_depth": 0},
    {"regime": "linear_probe", "unfreeze_depth": 0, "head_width": 64, "policy": "none"},
    {"unfreeze_depth": 1},
    {"unfreeze_depth": 3, "policy": "medium"},
    {"unfreeze_depth": "from:blocks.5"},
    {"regime": "two_phase", "unfreeze_depth": 2, "max_epochs": 2},
    {"unfreeze_depth": "all"},
    {"regime": "linear_probe", "unfreeze_depth": 0, "synthetic_share": 1.0},
    {"unfreeze_depth": 2, "policy": "flip", "synthetic_share": 0.5, "sampler": "balanced"},
    {"unfreeze_depth": 1, "synthetic_share": 0.5, "mix": "cutmix", "mix_within_class": True},
]


@pytest.mark.parametrize("config", FIRST_STEPS, ids=str)
def test_the_first_steps_loss_is_the_whole_networks(photos: StudySettings, config: dict[str, Any]) -> None:
    config = ONE_STEP | config
    expected = WholeNetwork(photos, **config).train_epoch(1)[0]

    found = run_trial(photos, **config)[0]["train_loss"]

    assert found == pytest.approx(expected, rel=1e-5)


def test_in_half_precision_the_first_steps_loss_is_the_whole_networks_but_for_the_rounding(
    photos: StudySettings,
) -> None:
    config = ONE_STEP | {"unfreeze_depth": 2}
    expected = WholeNetwork(photos, **config).train_epoch(1)[0]

    found = run_trial(replace(photos, activation_dtype="float16"), **config)[0]["train_loss"]

    assert found != expected
    assert found == pytest.approx(expected, rel=1e-4)


RERUN: list[dict[str, Any]] = [
    {"regime": "linear_probe", "unfreeze_depth": 0, "policy": "light", "dropout": 0.2, "max_epochs": 2},
    {"unfreeze_depth": 2, "policy": "none", "max_epochs": 2, "batch_size": 32},
    {"unfreeze_depth": 0, "policy": "flip", "max_epochs": 2, "synthetic_share": 1.0},
]


@pytest.mark.parametrize("config", RERUN, ids=str)
def test_reruns_give_the_same_bits_with_a_cold_a_warm_and_a_deleted_cache(
    photos: StudySettings, config: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(Path(photos.cache_directory) / "images", folder / "images")
    settings = replace(photos, cache_directory=str(folder))

    cold = run_trial(settings, **config)
    assert_cached(settings)
    warm = run_trial(settings, **config)
    shutil.rmtree(folder / "activations")
    deleted = run_trial(settings, **config)
    shutil.rmtree(folder / "activations", ignore_errors=True)
    open_cache.cache_clear()  # as in a new process
    restarted = run_trial(settings, **config)

    assert cold == warm == deleted == restarted


@pytest.mark.parametrize("depth", [0, 2])
def test_the_final_accuracy_is_within_one_image_of_the_whole_networks(
    photos: StudySettings, depth: int, full: bool
) -> None:
    config = {"unfreeze_depth": depth, "max_epochs": 6 if full else 3, "batch_size": 16, "policy": "light"}
    whole = WholeNetwork(photos, **config)
    for epoch in range(1, int(config["max_epochs"]) + 1):
        whole.train_epoch(epoch)
    _, right = whole.validate()

    found = run_trial(photos, **config)[-1]["val_accuracy"]

    assert abs(round(found * len(whole.run.validated)) - right) <= 1


@pytest.mark.parametrize("depth", [0, 2])
def test_with_a_cache_in_single_precision_and_frozen_batch_norm_every_step_is_the_whole_networks(
    photos: StudySettings, depth: int, full: bool
) -> None:
    settings = replace(photos, activation_dtype="float32")
    steps = 16 if full else 8
    config = {
        "unfreeze_depth": depth,
        "max_epochs": steps,
        "steps_per_epoch": 1,  # so that an epoch's loss is a step's
        "batch_size": 16,
        "optimizer": "sgd",
        "learning_rate": 1e-4,  # at larger ones two float32 runs part at the kinks of ReLU6 by themselves
        "frozen_batch_norm": True,
        "dropout": 0.2,
        "policy": "none",
    }
    whole = WholeNetwork(settings, **config)
    expected = [whole.train_epoch(epoch)[0] for epoch in range(1, steps + 1)]
    loss, right = whole.validate()

    found = run_trial(settings, **config)

    assert [metrics["train_loss"] for metrics in found] == pytest.approx(expected, rel=1e-5)
    assert found[-1]["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert found[-1]["val_accuracy"] == pytest.approx(right / len(whole.run.validated))
