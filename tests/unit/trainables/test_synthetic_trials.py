"""Trials with synthetic images: what they train on, what they share, and what stays as it was without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contract.finals import FinalTraining
from contract.messages import StudySettings
from tests.lone_trial import Metrics, run_alone
from tests.tiny_data import CHANNELS, make_lease, make_settings
from trainables.activations.shared import load_splits, load_synthetic, open_cache
from trainables.data.synthetic import SyntheticTable, list_synthetic
from trainables.images.decoding import digest_of
from trainables.run import TrialRun
from trainables.trial_images import load_images

NUM_TRAIN, ADDED = 25, {"red": 8, "blue": 4}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    """A study with synthetic images of two of its three classes."""
    made = make_settings(tmp_path_factory.mktemp("synthetic"), activation_dtype="float32")
    folder = made.paths.directory.parent / "made"
    random = np.random.default_rng(1)
    for name, count in ADDED.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 160, (40, 40, 3))
            pixels[..., CHANNELS[name]] += 95
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02}.png")
    listing = list_synthetic(folder, made.classes)
    digests = tuple(digest_of(path.read_bytes()) for path in listing.paths)
    SyntheticTable(paths=listing.paths, labels=listing.labels, digests=digests).write_csv(
        made.paths.synthetic
    )
    return made


def without(settings: StudySettings, tmp_path: Path) -> StudySettings:
    """The same study of one that never heard of synthetic images, with an empty cache."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "data.csv").write_bytes(settings.paths.manifest.read_bytes())
    return replace(settings, study_directory=str(tmp_path / "study"), cache_directory=str(tmp_path / "cache"))


def run(settings: StudySettings, number: int = 0, **config: Any) -> Metrics:
    return run_alone(settings, make_lease(number, **config))


def labels_of(settings: StudySettings, **config: Any) -> list[int]:
    trial = TrialRun(make_lease(**config), settings)
    return np.bincount(trial.train_labels, minlength=3).tolist()


@pytest.mark.parametrize("config", [{"unfreeze_depth": 0}, {"unfreeze_depth": 2, "policy": "light"}], ids=str)
def test_a_share_of_nothing_is_bit_by_bit_the_trial_of_a_study_without_synthetic_images(
    settings: StudySettings, tmp_path: Path, config: dict[str, Any]
) -> None:
    assert run(settings, synthetic_share=0.0, **config) == run(without(settings, tmp_path), **config)


def test_the_share_joins_the_train_split_alone_and_the_same_images_come_first(
    settings: StudySettings,
) -> None:
    plain = labels_of(settings)
    assert sum(plain) == NUM_TRAIN

    assert labels_of(settings, synthetic_share=0.5) == [plain[0] + 2, plain[1], plain[2] + 4]
    assert labels_of(settings, synthetic_share=1.0) == [plain[0] + 4, plain[1], plain[2] + 8]
    trial = TrialRun(make_lease(synthetic_share=1.0), settings)
    assert len(trial.splits["val"]) == len(TrialRun(make_lease(), settings).splits["val"])
    images = trial.splits["train"].store.take(trial.splits["train"].ids)
    real, added = (
        load_splits(settings, "crop", trial.device)["train"],
        load_synthetic(settings, "crop", trial.device),
    )
    assert np.array_equal(images[:NUM_TRAIN], real.store.take(real.ids))
    assert np.array_equal(images[NUM_TRAIN:], added.store.take(added.ids))


EXACT: list[dict[str, Any]] = [
    {"unfreeze_depth": 0, "policy": "light"},
    {"unfreeze_depth": 2, "policy": "flip"},
    {"unfreeze_depth": 2, "mix": "mixup"},
    {"unfreeze_depth": 2, "mix": "cutmix", "mix_within_class": True},
    {"unfreeze_depth": 2, "minority_policy": "medium"},
    {"regime": "two_phase", "unfreeze_depth": 1, "class_weights": "balanced"},
]


@pytest.mark.parametrize("config", EXACT, ids=str)
def test_what_a_trial_computes_does_not_depend_on_the_cache(
    settings: StudySettings, config: dict[str, Any]
) -> None:
    # At larger rates two float32 runs part at the kinks of ReLU6 by themselves.
    slow = {"optimizer": "sgd", "learning_rate": 1e-4, "frozen_batch_norm": True}
    config = {"synthetic_share": 0.5, **slow, **config}
    cached = run(settings, **config)

    uncached = run(replace(settings, cache_gigabytes=0.0), **config)

    assert cached == [pytest.approx(one, rel=1e-4, abs=1e-6) for one in uncached]


def test_all_shares_read_one_entry_of_real_and_one_of_synthetic_images(
    settings: StudySettings, tmp_path: Path
) -> None:
    study = replace(settings, cache_directory=str(tmp_path / "cache"))
    open_cache.cache_clear()
    cache = open_cache(study.cache_directory, study.cache_gigabytes)
    assert cache is not None
    run(study, unfreeze_depth=0)
    assert cache.stats().misses == 2  # train and val

    run(study, 1, unfreeze_depth=0, synthetic_share=1.0)
    assert cache.stats().misses == 3
    computed = cache.stats().chunks_computed
    run(study, 2, unfreeze_depth=0, synthetic_share=0.5)

    assert (cache.stats().misses, cache.stats().chunks_computed) == (3, computed)


def test_over_sampling_and_weights_see_the_joint_counts(settings: StudySettings) -> None:
    joint = labels_of(settings, synthetic_share=1.0)

    even = labels_of(settings, synthetic_share=1.0, minority_policy="medium")
    found = load_images(
        TrialRun(make_lease(synthetic_share=1.0, class_weights="balanced"), settings).config,
        settings,
        fit="crop",
        device=torch.device("cpu"),
    )

    assert even == [max(joint)] * 3
    assert found.class_weights is not None
    assert (found.class_weights * torch.tensor(joint)).tolist() == pytest.approx([sum(joint) / 3] * 3)


def test_a_refit_trains_on_them_as_well(settings: StudySettings) -> None:
    leased = replace(make_lease(7, synthetic_share=1.0), final=FinalTraining.refit(0, epochs=1))

    trial = TrialRun(leased, settings)

    assert len(trial.splits["train"]) == NUM_TRAIN + len(trial.splits["val"]) + sum(ADDED.values())


def test_images_that_changed_since_the_study_began_fail_the_trial_with_the_reason(
    settings: StudySettings, tmp_path: Path
) -> None:
    other = without(settings, tmp_path)
    text = settings.paths.synthetic.read_text()
    lines = [line.rsplit(",", 1)[0] + ",0" if "/" in line else line for line in text.splitlines()]
    other.paths.synthetic.write_text("\n".join(lines) + "\n")

    with pytest.raises(ValueError, match="have changed since it began"):
        TrialRun(make_lease(synthetic_share=1.0), other)
    with pytest.raises(ValueError, match="needs a study with --synthetic"):
        other.paths.synthetic.unlink()
        TrialRun(make_lease(synthetic_share=0.25), other)
