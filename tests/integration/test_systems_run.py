"""Every published system trains on a few images, and what was built is what was published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from contract.messages import LeasedTrial
from search_spaces._systems import list_systems
from tests.lone_trial import start_trials
from tests.published_systems import BACKBONE_PARAMETERS, PUBLISHED, Published
from tests.small_study import (
    CLASSES,
    NUM_VAL,
    SYNTHETIC_COUNTS,
    TRAIN_COUNTS,
    add_synthetic_images,
    make_settings,
    make_small_study,
)
from trainables.activations.inputs import Inputs
from trainables.data.policies import find_policy
from trainables.lease import LeasedRun
from trainables.run import TrialRun
from trainables.systems import row_name

pytestmark = pytest.mark.slow

EPOCHS = 2
SIDES = {
    "alexnet": 64,
    "googlenet": 64,
    "six_conv": 64,
    "mobilenet_v2_mish_blur": 64,
    "inception_v3": 80,
    "inception_resnet_v2": 112,
}
LARGE = (
    "resnext101",
    "resnet101",
    "inception_resnet_v2",
    "inception_v3",
    "vgg16",
    "alexnet",
    "efficientnet",
    "bit",
)
ROWS = list_systems(max_epochs=EPOCHS)


@dataclass
class Watched:
    """What an epoch was seen to do."""

    trains: str
    peak_rate: float | None
    batches: list[int] = field(default_factory=list)
    targets: list[torch.Tensor] = field(default_factory=list)
    outputs_differ: bool = False
    """Whether the classifier tells one image of a batch from another."""

    head_starts_at_zero: bool = False


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_small_study(tmp_path_factory.mktemp("study"))
    add_synthetic_images(made)
    return made


def side_of(row: dict[str, Any]) -> int:
    """Small, but more than one position in the last maps where the head looks at each of them."""
    backbone = row["config"]["backbone"]
    smallest = 64 if row["config"].get("head_pooling") == "flatten" else 32
    return max(SIDES.get(backbone, 32), smallest)


def is_large(row: dict[str, Any]) -> bool:
    return str(row["config"]["backbone"]).startswith(LARGE)


def is_repeated(row: dict[str, Any]) -> bool:
    """Whether an earlier row runs the same system, with the same configuration but for defaults."""
    first = next(
        other
        for other in ROWS
        if other["id"] == row["id"]
        and all(row["config"].get(name, value) == value for name, value in other["config"].items())
    )
    return first is not row


def watch(monkeypatch: pytest.MonkeyPatch, epochs: list[Watched]) -> None:
    """Note what every training batch of `epochs[-1]` is."""
    batches = Inputs.batches

    def noted(self: Inputs, *args: Any, **kwargs: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        output = [module for module in self.classifier.head.modules() if isinstance(module, nn.Linear)]
        for inputs, targets in batches(self, *args, **kwargs):
            if len(self.split) != NUM_VAL:
                epochs[-1].head_starts_at_zero |= not any(part.weight.any() for part in output)
                epochs[-1].batches.append(len(inputs))
                epochs[-1].targets.append(targets)
                with torch.no_grad():
                    epochs[-1].outputs_differ |= bool(self.forward(inputs).var(dim=0).max() > 1e-9)
            yield inputs, targets

    monkeypatch.setattr(Inputs, "batches", noted)


def run_trial(row: dict[str, Any], study: Path, epochs: list[Watched]) -> TrialRun:
    """Train the recipe to its end, an epoch at a time."""
    leased = make_lease(row, study)
    while not leased.finished:
        epochs.append(Watched(trains="", peak_rate=None))
        reports = leased.advance()
        assert leased.run is not None
        epochs[-1].trains = what_trains(leased.run)
        epochs[-1].peak_rate = peak_rate(leased.run)
        assert reports[-1].epoch == len(epochs)
        assert 0 <= reports[-1].metrics["val_accuracy"] <= 1
    assert leased.run is not None
    assert reports[-1].outcome == "complete"
    assert leased.run.paths.predictions.is_file()
    return leased.run


def make_lease(row: dict[str, Any], study: Path) -> LeasedRun:
    settings = make_settings(study, image_size=side_of(row))
    leased = LeasedTrial(trial=ROWS.index(row), attempt=1, done_epochs=0, config=row["config"])
    return start_trials(settings, leased)[0]


def what_trains(run: TrialRun) -> str:
    trained = sum(value.numel() for value in run.classifier.trainable_backbone_parameters().values())
    whole = sum(value.numel() for value in run.classifier.backbone.parameters())
    return "all" if trained == whole and run.phase.depth != 0 else "part" if trained else "head"


def peak_rate(run: TrialRun) -> float | None:
    if run.optimizer is None:
        return None
    rates = [group["peak_lr"] for group in run.optimizer.param_groups if group["part"] == "head"]
    return float(rates[0])


def describe_head(run: TrialRun) -> str:
    """The layers of the head, in the words of `published_systems.py`."""
    texts = ["flatten"] if _sees_positions(run) else []
    for module in run.classifier.head.modules():
        if isinstance(module, nn.BatchNorm1d):
            texts.append("norm")
        elif isinstance(module, nn.Linear):
            texts.append(str(module.out_features))
        elif isinstance(module, nn.ReLU):
            texts.append("relu")
        elif isinstance(module, nn.Dropout):
            texts.append(f"dropout {module.p:g}")
    assert texts[-1] == str(len(CLASSES))
    return ", ".join([*texts[:-1], "softmax"])


def _sees_positions(run: TrialRun) -> bool:
    """Whether larger images give the head more to look at."""
    backbone, side = run.classifier.backbone.eval(), run.settings.image_size
    with torch.no_grad():
        features, of_larger = (backbone(torch.zeros(1, 3, size, size)).numel() for size in (side, 2 * side))
    return bool(of_larger > features)


def differences(run: TrialRun, epochs: list[Watched], published: Published) -> list[str]:
    """What was built otherwise than published."""
    found = [*network_facts(run, epochs, published), *view_facts(run, published)]
    if published.optimizer:
        found += [
            ("head", describe_head(run), published.head),
            ("optimizer", type(run.optimizer).__name__, published.optimizer),
            ("schedule", run.schedule.name, published.schedule or run.schedule.name),
        ]
    if published.momentum is not None and run.optimizer is not None:
        found.append(("momentum", run.optimizer.param_groups[0].get("momentum"), published.momentum))
    if published.batch_size and published.optimizer:
        images = sum(epochs[0].batches)
        found.append(("batch", epochs[0].batches[0], min(published.batch_size, images)))
    if published.rates:
        rates = tuple(dict.fromkeys(epoch.peak_rate for epoch in epochs))
        found.append(("rates", rates, tuple(map(pytest.approx, published.rates))))
    found += [(name, getattr(run.config, name), value) for name, value in published.config.items()]
    return [f"{name}: built {built}, published {wanted}" for name, built, wanted in found if built != wanted]


def network_facts(
    run: TrialRun, epochs: list[Watched], published: Published
) -> Iterator[tuple[str, Any, Any]]:
    backbone = run.classifier.backbone
    wanted = BACKBONE_PARAMETERS.get(published.backbone)
    yield "backbone", run.config.backbone, published.backbone
    if wanted is not None:
        yield "parameters", sum(value.numel() for value in backbone.parameters()), wanted
    yield "trains", tuple(dict.fromkeys(epoch.trains for epoch in epochs)), published.trains
    yield "pretrained", run.regime.pretrained, published.pretrained
    kinds = [type(module).__name__ for module in backbone.modules()]
    for kind, number in published.layers.items():
        yield kind, kinds.count(kind) if number >= 0 else min(kinds.count(kind), 1), abs(number)


def view_facts(run: TrialRun, published: Published) -> Iterator[tuple[str, Any, Any]]:
    if run.config.regime == "knn":
        return
    view = run.inputs["train"].view
    policy = asdict(find_policy(view.policy))
    if published.is_augmented or published.augmentation:
        yield "augmented", view.is_random, True
    else:
        yield "augmented", view.policy, "none"
    for name, value in (published.augmentation or {}).items():
        yield name, policy[name], value


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_it_trains_as_published(
    row: dict[str, Any], study: Path, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not full and (is_large(row) or is_repeated(row)):
        pytest.skip("a large network, or the same as another row: runs with --full")
    epochs: list[Watched] = []
    watch(monkeypatch, epochs)

    run = run_trial(row, study, epochs)

    found = [differences(run, epochs, published) for published in PUBLISHED[row["id"]]]
    assert min(found, key=len) == []
    check = EXTRA.get(row["id"])
    if check is not None:
        check(run, epochs)


def check_fifth_block(run: TrialRun, epochs: list[Watched]) -> None:
    trained = {".".join(name.split(".")[:2]) for name in run.classifier.trainable_backbone_parameters()}
    assert {name for name in trained if name.startswith("blocks.")} == {"blocks.4", "blocks.5", "blocks.6"}


def check_last_60_layers(run: TrialRun, epochs: list[Watched]) -> None:
    trained = {name.rpartition(".")[0] for name in run.classifier.trainable_backbone_parameters()}
    assert len(trained) == 60


def check_hyperrule(run: TrialRun, epochs: list[Watched]) -> None:
    assert epochs[0].head_starts_at_zero
    assert run.optimizer is not None
    assert {group["weight_decay"] for group in run.optimizer.param_groups} == {0.0}
    assert not [module for module in run.classifier.modules() if isinstance(module, nn.BatchNorm2d)]


def check_blind(run: TrialRun, epochs: list[Watched]) -> None:
    assert not any(epoch.outputs_differ for epoch in epochs)


def check_sees(run: TrialRun, epochs: list[Watched]) -> None:
    assert epochs[-1].outputs_differ


def check_rare_classes_count_more(run: TrialRun, epochs: list[Watched]) -> None:
    assert run.class_weights is not None
    shares = run.class_weights * torch.tensor(TRAIN_COUNTS)
    torch.testing.assert_close(shares, shares.mean().expand(5))


def check_classes_are_evened_out(run: TrialRun, epochs: list[Watched]) -> None:
    labels = torch.cat(epochs[0].targets)
    assert torch.bincount(labels).tolist() == [max(TRAIN_COUNTS)] * 5
    assert run.inputs["train"].view.minority_policy == "medium"


def check_labels_are_mixed(run: TrialRun, epochs: list[Watched]) -> None:
    targets = torch.cat(epochs[0].targets + epochs[1].targets)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))
    mixed = ((targets > 0).sum(1) > 1).float().mean()
    assert 0.1 < mixed < 0.7  # half of the images, some of them with one of their own class


def check_synthetic_images_train_too(run: TrialRun, epochs: list[Watched]) -> None:
    joint = [sum(pair) for pair in zip(TRAIN_COUNTS, SYNTHETIC_COUNTS, strict=True)]
    assert torch.bincount(torch.cat(epochs[0].targets)).tolist() == joint
    assert len(run.splits["val"]) == NUM_VAL


def check_repeated_passes(run: TrialRun, epochs: list[Watched]) -> None:
    modules = run.classifier.backbone.modules()
    passes = [vars(module)["passes"] for module in modules if "passes" in vars(module)]
    assert passes and min(passes) >= 2


def check_dropout_between_blocks(run: TrialRun, epochs: list[Watched]) -> None:
    check_repeated_passes(run, epochs)
    layers = [module for module in run.classifier.backbone.modules() if isinstance(module, nn.Dropout2d)]
    assert layers and all(layer.p > 0 for layer in layers)


def check_penalty(run: TrialRun, epochs: list[Watched]) -> None:
    assert run.optimizer is not None
    groups = run.optimizer.param_groups
    penalised = [parameter for group in groups if group["l2"] for parameter in group["params"]]
    weights = [module.weight for module in run.classifier.head.modules() if isinstance(module, nn.Linear)]
    assert {group["l2"] for group in groups} == {0.0, 0.01}
    assert {id(parameter) for parameter in penalised} == {id(weight) for weight in weights}


def check_size(run: TrialRun, epochs: list[Watched]) -> None:
    statistics = sum(
        buffer.numel()
        for name, buffer in run.classifier.backbone.named_buffers()
        if name.endswith(("running_mean", "running_var"))
    )
    assert run.classifier.num_parameters() == (406_149, 406_149)
    assert statistics == 960


EXTRA = {
    "A10": check_fifth_block,
    "A11": check_hyperrule,
    "B1": check_sees,
    "B2": check_blind,
    "B10": check_rare_classes_count_more,
    "B11": check_classes_are_evened_out,
    "B12": check_labels_are_mixed,
    "B16": check_synthetic_images_train_too,
    "C1": check_repeated_passes,
    "C2": check_dropout_between_blocks,
    "D4": check_last_60_layers,
    "E1": check_size,
    "E7": check_penalty,
}
"""What the report says beyond the facts that all have."""
