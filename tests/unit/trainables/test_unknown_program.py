"""The program for unknown classes scores images as the rule did that its threshold was set by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.messages import StudySettings
from contract.model_layout import ModelPaths
from contract.unknown_score import ENTROPY, DistanceScore, score_probabilities
from tests.tiny_data import make_lease, make_settings
from trainables.export.frozen_features import frozen_features
from trainables.export.unknown_program import (
    ScoredImages,
    export_unknown_program,
    negative_entropy,
    prepare_unknown_program,
    score_images,
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("study"), fits=("crop",))


def unit_length(features: np.ndarray) -> np.ndarray:
    units: np.ndarray = features / np.linalg.norm(features, axis=1, keepdims=True)
    return units


def make_rule(
    settings: StudySettings, config: Any, *, with_scales: bool
) -> tuple[DistanceScore, ScoredImages]:
    """A rule with a whitening that is not the identity, and its scores by plain double precision."""
    found = frozen_features(config, settings)
    (_, train), (ids, val) = found["train"], found["val"]
    random = np.random.default_rng(0)
    width, num_classes = train.shape[1], len(settings.classes)
    means = np.stack([unit_length(train[start::num_classes]).mean(axis=0) for start in range(num_classes)])
    whitening = 30 * np.eye(width) + np.triu(random.normal(size=(width, width)), 1)
    parts = DistanceScore(
        means=means.astype(np.float32),
        whitening=whitening.astype(np.float32),
        scales=((-0.9, 0.2), (1.0, 0.3)) if with_scales else None,
    )
    probabilities = random.dirichlet(np.ones(num_classes), len(ids))
    apart = (unit_length(val.astype(np.float64))[:, None] - means[None]) @ whitening
    scores = -np.log((apart**2).sum(axis=2).min(axis=1))
    if with_scales:
        entropy = score_probabilities(np.log(probabilities), ENTROPY)
        scores = (entropy + 0.9) / 0.2 + (scores - 1.0) / 0.3
    return parts, ScoredImages(ids=ids, probabilities=probabilities, scores=scores)


@pytest.mark.parametrize("with_scales", [True, False])
def test_the_program_scores_images_as_the_rule_did(
    settings: StudySettings, tmp_path: Path, with_scales: bool
) -> None:
    config = dict(make_lease(0).config)
    parts, scored = make_rule(settings, config, with_scales=with_scales)
    target = ModelPaths(tmp_path)

    export_unknown_program(parts, config, settings, target=target, scored=scored)

    program = torch.export.load(target.unknown).module()
    found = score_images(
        program, settings, "val", fit="crop", ids=scored.ids[::-1], probabilities=scored.probabilities[::-1]
    )
    assert np.abs(found[::-1] - scored.scores).max() < 0.05 * scored.scores.std()


def test_a_program_that_was_prepared_for_another_score_is_filled_in(
    settings: StudySettings, tmp_path: Path
) -> None:
    config = dict(make_lease(0).config)
    prepare_unknown_program(config, settings, num_means=len(settings.classes))

    for number, with_scales in enumerate((False, True)):  # the second one is no longer prepared
        parts, scored = make_rule(settings, config, with_scales=with_scales)
        target = ModelPaths(tmp_path / str(number))
        target.directory.mkdir()
        export_unknown_program(parts, config, settings, target=target, scored=scored)
        assert target.unknown.is_file()


def test_a_program_that_scores_otherwise_than_its_rule_is_refused(
    settings: StudySettings, tmp_path: Path
) -> None:
    config = dict(make_lease(0).config)
    parts, scored = make_rule(settings, config, with_scales=True)
    others = replace(scored, scores=scored.scores + scored.scores.std())

    with pytest.raises(ValueError, match="spreads of the score"):
        export_unknown_program(parts, config, settings, target=ModelPaths(tmp_path), scored=others)

    assert not ModelPaths(tmp_path).unknown.exists()


@pytest.mark.parametrize("num_classes", [2, 7, 300])
def test_entropy_is_the_same_in_single_precision_however_sure_the_model_is(num_classes: int) -> None:
    logits = np.random.default_rng(0).normal(size=(200, num_classes)) * np.geomspace(0.1, 40, 200)[:, None]
    probabilities = torch.from_numpy(logits).softmax(dim=1)
    exact = score_probabilities(np.log(np.maximum(probabilities.numpy(), np.finfo(np.float32).tiny)), ENTROPY)

    found = negative_entropy(probabilities.float()).numpy()

    assert np.abs(found - exact).max() < 1e-3
