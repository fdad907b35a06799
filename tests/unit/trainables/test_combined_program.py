"""One program of several classifiers predicts what their stored predictions give when they are pooled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.answer import Combination, MemberRef, Pooling
from contract.messages import StudySettings
from contract.model_layout import ModelPaths
from tests.tiny_data import make_settings
from tests.trained_members import combine, train_members, validation_images
from trainables.export.ensemble import Branch, CombinedClassifier, load_combination
from trainables.export.parity import load_log_probabilities, load_pooled_predictions
from trainables.export.program import make_checked_program
from trainables.export.split_predictions import predict_members, write_flipped_predictions

FROZEN = {"regime": "linear_probe", "unfreeze_depth": 0}
MEMBERS: tuple[Mapping[str, Any], ...] = (
    FROZEN,
    {**FROZEN, "learning_rate": 1e-2, "head_batch_norm": True, "dropout": 0.2},
    {"unfreeze_depth": 1},
    {"regime": "knn", "unfreeze_depth": 0, "num_neighbours": 3},
    {"backbone": "linear_pixels", **FROZEN},
    {"regime": "scratch", "unfreeze_depth": "all", "max_epochs": 1},
    {**FROZEN, "head_width": 8},
    {"unfreeze_depth": 3},
)
PLAIN, NORMED, DEEPER, NEIGHBOURS, PIXELS, SCRATCH, HIDDEN, DEEPEST = (
    MemberRef("trial", number) for number in range(len(MEMBERS))
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudySettings, dict[MemberRef, dict[str, Any]]]:
    settings = make_settings(tmp_path_factory.mktemp("study"), fits=("crop",))
    return settings, train_members(settings, *MEMBERS)


Study = tuple[StudySettings, dict[MemberRef, dict[str, Any]]]


def difference(study: Study, combination: Combination) -> float:
    """Largest difference of a probability from the pooled stored predictions of the validation images."""
    settings, configs = study
    network = load_combination(combination, configs, settings)
    _, stored = load_pooled_predictions(combination, settings.paths)
    with torch.inference_mode():
        return float(np.abs(network(validation_images(settings, configs)).numpy() - stored).max())


def num_passes(network: CombinedClassifier, images: torch.Tensor) -> int:
    """How often the stem of a backbone runs."""
    counts: list[str] = []
    for name, module in network.named_modules(remove_duplicate=False):
        if name.endswith("conv_stem") and "_seen" not in module.__dict__:
            module.__dict__["_seen"] = True
            module.register_forward_hook(lambda *_: counts.append("pass"))
    with torch.inference_mode():
        network(images)
    return len(counts)


@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize(
    "refs",
    [
        (PLAIN, NORMED),
        (PLAIN, DEEPER),
        (PLAIN, NORMED, HIDDEN, DEEPER, DEEPEST),
        (PLAIN, PIXELS),
        (PLAIN, NEIGHBOURS),
        (DEEPER, SCRATCH),
    ],
    ids=["linear heads", "two depths", "three depths", "two backbones", "neighbours", "scratch"],
)
def test_a_combination_predicts_what_its_members_predicted_pooled(
    study: Study, refs: tuple[MemberRef, ...], pooling: Pooling
) -> None:
    weights = (0.4, *[0.6 / (len(refs) - 1)] * (len(refs) - 1))

    assert difference(study, combine(*refs, pooling=pooling, weights=weights)) < 1e-4


@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_temperature_acts_after_the_pooling(study: Study, temperature: float, pooling: Pooling) -> None:
    combination = combine(PLAIN, DEEPER, pooling=pooling, temperature=temperature)

    assert difference(study, combination) < 1e-4
    assert difference(study, replace(combine(PLAIN), temperature=temperature)) < 1e-4


def test_members_of_one_network_share_one_pass_of_its_frozen_prefix(study: Study) -> None:
    settings, configs = study
    images = validation_images(settings, configs)[:2]

    networks = [
        load_combination(combine(*refs, pooling=Pooling.LOGITS), configs, settings)
        for refs in ((PLAIN,), (PLAIN, NORMED, HIDDEN, NEIGHBOURS, DEEPER, DEEPEST), (PLAIN, SCRATCH))
    ]

    assert [num_passes(network, images) for network in networks] == [1, 1, 2]


def test_linear_heads_on_the_same_features_become_one_layer(study: Study) -> None:
    settings, configs = study

    network = load_combination(combine(PLAIN, NORMED, pooling=Pooling.LOGITS), configs, settings)

    assert sum(isinstance(module, torch.nn.Linear) for module in network.modules()) == 1


def test_a_mirrored_view_predicts_mirrored_images_in_one_pass_for_all_views(study: Study) -> None:
    settings, configs = study
    flips = [MemberRef("trial", ref.number, "flip") for ref in (PLAIN, DEEPER)]

    write_flipped_predictions([PLAIN, DEEPER], configs, settings)
    combination = combine(PLAIN, DEEPER, *flips)
    network = load_combination(combination, configs, settings)
    images = validation_images(settings, configs)
    mirrored = load_combination(combine(DEEPER), configs, settings)(images.flip(-1)).detach().numpy()
    ids, values = load_log_probabilities(settings.trial_paths(DEEPER.number).flipped_predictions)

    assert np.abs(np.exp(values) - mirrored).max() < 1e-5
    assert len(ids) == len(images)
    assert difference(study, combination) < 1e-4
    assert num_passes(network, images) == 2
    assert sum(isinstance(module, Branch) for module in network.modules()) == 2


@pytest.mark.slow
def test_an_exported_combination_keeps_shared_weights_once_and_says_its_backbones(
    study: Study, tmp_path: Path
) -> None:
    settings, configs = study
    flip = MemberRef("trial", PLAIN.number, "flip")
    write_flipped_predictions([PLAIN], configs, settings)
    one, several = ModelPaths(tmp_path / "one"), ModelPaths(tmp_path / "several")
    combination = combine(PLAIN, NORMED, flip, PIXELS)

    make_checked_program(Combination.single(PLAIN), configs, settings).write(settings, target=one, about={})
    make_checked_program(combination, configs, settings).write(
        settings, target=several, about=combination.as_values()
    )

    card = json.loads(several.card.read_text())
    assert card["backbone"] == "lite0, linear_pixels"
    assert Combination.from_values(card) == combination
    assert several.program.stat().st_size < 1.3 * one.program.stat().st_size
    program = torch.export.load(several.program).module()
    assert program(torch.rand(3, 3, 32, 32)).shape == (3, 3)


def test_members_that_want_other_squares_or_blank_images_are_refused(study: Study) -> None:
    settings, configs = study
    other = MemberRef("trial", 90)
    squashed = configs | {other: configs[PLAIN] | {"backbone": "bit_r50x1"}}
    blank = configs | {other: configs[PLAIN] | {"zero_inputs": True}}

    with pytest.raises(ValueError, match=r"several ways: crop \(trial 0\), squash \(trial 90\)"):
        load_combination(combine(PLAIN, other), squashed, settings)
    with pytest.raises(ValueError, match="trial 90 was trained on blank images"):
        load_combination(combine(PLAIN, other), blank, settings)


@pytest.mark.parametrize(
    ("combination", "message"),
    [
        (combine(PLAIN, DEEPER, weights=(0.5, 0.6)), "add up to 1, not 1.1"),
        (combine(PLAIN, PLAIN), "each once"),
        (combine(PLAIN, temperature=0.0), "temperature must be positive"),
        (combine(MemberRef("final", 3)), "final 3 has no configuration"),
    ],
)
def test_what_is_no_combination_is_refused(study: Study, combination: Combination, message: str) -> None:
    settings, configs = study

    with pytest.raises(ValueError, match=message):
        load_combination(combination, configs, settings)


def test_the_test_split_is_read_only_when_it_is_named(study: Study) -> None:
    from trainables.activations.shared import load_splits

    settings, configs = study
    progress: list[tuple[int, int]] = []

    def note(done: int, count: int) -> None:
        progress.append((done, count))

    found = predict_members([PLAIN, DEEPER], configs, settings, "test", progress=note)

    assert set(load_splits(settings, "crop", torch.device("cpu"))) == {"train", "val"}
    assert set(found) == {PLAIN, DEEPER}
    splits = np.array([row.split(",")[3] for row in settings.paths.manifest.read_text().splitlines()[1:]])
    assert found[PLAIN].ids.tolist() == np.flatnonzero(splits == "test").tolist()
    assert progress == [(len(found[PLAIN].ids),) * 2]
    assert np.allclose(np.exp(found[DEEPER].log_probabilities).sum(axis=1), 1, atol=1e-5)
