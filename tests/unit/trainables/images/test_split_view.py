"""The views of a split: shared between trials and studies, whatever the batch, the order or the worker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from trainables.data.augmentation import augment, evaluation_view, to_bytes
from trainables.data.mixing import Mix
from trainables.data.policies import names
from trainables.images.split_view import SplitView, ViewSettings, oversampled, with_synthetic
from trainables.images.store import ImageStore

STORED, SIZE = 23, 20
CPU = torch.device("cpu")
LABELS = np.repeat([0, 1, 2], [8, 4, 3])


def make_split(order: np.ndarray[Any, Any] | None = None) -> SplitView:
    chosen = np.arange(len(LABELS)) if order is None else order
    images = np.random.default_rng(0).integers(0, 256, (len(LABELS), STORED, STORED, 3), dtype=np.uint8)
    view_ids = np.random.default_rng(1).integers(0, 2**60, len(LABELS))
    return SplitView(
        store=ImageStore(images=images, facts=(), key="test", path=None),
        ids=chosen,
        labels=torch.from_numpy(LABELS[chosen]),
        num_classes=3,
        view_ids=view_ids[chosen],
        copies=np.zeros(len(chosen), dtype=np.int64),
        digest=str(chosen.tolist()),
    )


def make_view(**changes: Any) -> ViewSettings:
    return replace(ViewSettings(policy="light", image_size=SIZE, fit="crop", seed=3), **changes)


MIXES = [Mix(kind="mixup", alpha=0.4), Mix(kind="cutmix", mixed_share=0.6), Mix()]


@pytest.mark.parametrize("mix", MIXES)
def test_a_view_and_its_target_are_the_same_in_whatever_batch_the_image_comes(mix: Mix) -> None:
    split, view = oversampled(make_split()), make_view(mix=mix, minority_policy="medium")
    everything, some = np.arange(len(split)), np.array([17, 2, 9, 9])

    images = view.images(split, everything, epoch=2, device=CPU)
    targets = view.targets(split, everything, epoch=2)

    torch.testing.assert_close(view.images(split, some, epoch=2, device=CPU), images[some], rtol=0, atol=1e-6)
    assert torch.equal(view.targets(split, some, epoch=2), targets[some])


@pytest.mark.parametrize("mix", MIXES)
def test_a_view_is_the_same_in_a_study_that_lists_the_images_in_another_order(mix: Mix) -> None:
    order = np.random.default_rng(2).permutation(len(LABELS))
    split, shuffled, view = make_split(), make_split(order), make_view(mix=mix)

    images = view.images(split, order, epoch=1, device=CPU)
    targets = view.targets(split, order, epoch=1)

    everything = np.arange(len(order))
    torch.testing.assert_close(view.images(shuffled, everything, epoch=1, device=CPU), images)
    assert torch.equal(view.targets(shuffled, everything, epoch=1), targets)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_mixed_view_shows_what_its_target_says(kind: str) -> None:
    split = make_split()
    brightness = np.array([0, 100, 200], dtype=np.uint8)[LABELS][:, None, None, None]
    store = replace(split.store, images=np.broadcast_to(brightness, split.store.images.shape))
    split = replace(split, store=store)
    view = make_view(policy="none", mix=Mix(kind=kind, alpha=1.0))  # type: ignore[arg-type]

    images = view.images(split, np.arange(15), epoch=1, device=CPU)
    targets = view.targets(split, np.arange(15), epoch=1)

    expected = targets @ torch.tensor([0.0, 100.0, 200.0])
    torch.testing.assert_close(images.mean((1, 2, 3)) * 255, expected, rtol=0, atol=0.01)
    assert ((targets > 0.01).sum(1) > 1).any()


def test_every_image_of_a_class_can_be_a_partner() -> None:
    split, view = make_split(), make_view(mix=Mix(kind="mixup"))

    partners = {
        int(one) for epoch in range(30) for one in view._draw_mix(split, np.arange(15), epoch=epoch)[1]
    }

    assert partners == set(range(15))


FIRST_PARTNERS = [0, 3, 14, 4, 13, 5, 6, 9, 7, 14, 10, 11, 7, 10, 2]
WITHIN = [Mix(kind="mixup", alpha=0.4, within_class=True), Mix(kind="cutmix", within_class=True)]


@pytest.mark.parametrize("mix", WITHIN)
def test_within_a_class_all_its_images_and_no_others_are_partners_and_labels_stay_whole(mix: Mix) -> None:
    split, view = oversampled(make_split()), make_view(mix=mix, minority_policy="medium")
    everything = np.arange(len(split))
    labels = split.labels.numpy()

    drawn = [view._draw_mix(split, everything, epoch=epoch)[1] for epoch in range(60)]

    assert all(np.array_equal(labels[partners], labels) for partners in drawn)
    assert set(np.concatenate([partners[labels == 2] for partners in drawn])) == set(everything[labels == 2])
    assert torch.equal(view.targets(split, everything, epoch=1), split.labels)
    shown = view.images(split, everything, epoch=1, device=CPU)
    assert not torch.equal(shown, replace(view, mix=Mix()).images(split, everything, epoch=1, device=CPU))


def test_partners_of_the_whole_split_are_those_that_they_were_before_classes_were_known() -> None:
    """The first ones of a seed, as they were drawn when `within_class` came."""
    partners = make_view(mix=Mix(kind="mixup"))._draw_mix(make_split(), np.arange(15), epoch=1)[1]

    assert partners.tolist() == FIRST_PARTNERS


def test_another_label_is_another_digest_where_classes_count() -> None:
    split = make_split()
    other = replace(split, labels=split.labels.flip(0))

    assert split.digest == other.digest
    assert split.labelled_digest != other.labelled_digest


def test_synthetic_images_come_behind_the_real_ones_and_keep_their_own_activations() -> None:
    real, synthetic = make_split(), replace(make_split(np.arange(6)), digest="synthetic")

    both = with_synthetic(real, synthetic, num=4)

    assert len(both) == 19
    images = both.store.take(both.ids)
    assert np.array_equal(images[:15], real.store.take(real.ids))
    assert np.array_equal(images[15:], synthetic.store.take(synthetic.ids[:4]))
    mixed = np.array([16, 2, 18, 0])
    assert np.array_equal(both.store.take(both.ids[mixed]), images[mixed])
    assert [part.view for part in both.stored] == [real, synthetic]
    assert [part.num_rows for part in both.stored] == [15, 4]


def test_mixed_views_change_from_epoch_to_epoch_even_where_nothing_else_does() -> None:
    split, view = make_split(), make_view(policy="none", mix=Mix(kind="cutmix"))

    first, second = (view.images(split, np.arange(15), epoch=epoch, device=CPU) for epoch in (1, 2))

    assert view.is_random and view.number(2) == 2
    assert not torch.equal(first, second)


def test_oversampled_classes_are_equally_large_and_keep_the_originals_views() -> None:
    split, view = make_split(), make_view(minority_policy="strong")

    larger = oversampled(split)

    assert torch.bincount(larger.labels).tolist() == [8, 8, 8]
    originals = view.images(larger, np.arange(15), epoch=1, device=CPU)
    torch.testing.assert_close(originals, make_view().images(split, np.arange(15), epoch=1, device=CPU))
    assert larger.digest != split.digest


def test_copies_go_through_the_minority_policy_and_then_the_usual_one() -> None:
    split, view = oversampled(make_split()), make_view(minority_policy="strong")
    positions = np.arange(15, len(split))
    stored, ids = torch.from_numpy(split.store.take(split.ids[positions])), split.view_ids[positions]
    shared: dict[str, Any] = {"ids": torch.from_numpy(ids), "epoch": 1, "seed": 3, "copy": split.copies[15:]}

    first = augment(stored, policy="strong", size=STORED, fit="squash", purpose="minority/", **shared)
    expected = augment(to_bytes(first), policy="light", size=SIZE, **shared)

    images = view.images(split, positions, epoch=1, device=CPU)
    torch.testing.assert_close(images, expected)
    assert len(torch.unique(images.flatten(1), dim=0)) == len(positions)  # a view of its own for each copy


def test_the_same_policy_twice_draws_twice() -> None:
    split, view = oversampled(make_split()), make_view(policy="flip", minority_policy="flip")
    positions = np.arange(15, len(split))

    images = view.images(split, positions, epoch=1, device=CPU)

    stored = torch.from_numpy(split.store.take(split.ids[positions]))
    plain = evaluation_view(stored, size=SIZE)
    mirrored = [torch.equal(one, other.flip(2)) for one, other in zip(images, plain, strict=True)]
    assert any(mirrored)  # drawn once for both, the two would always cancel out


def test_blank_inputs_are_zero_and_never_random() -> None:
    split, view = make_split(), make_view(policy="strong", is_blank=True)

    images = view.images(split, np.arange(4), epoch=3, device=CPU)

    assert images.shape == (4, 3, SIZE, SIZE) and not images.any()
    assert not view.is_random


def test_every_setting_that_changes_a_view_changes_its_identity() -> None:
    views = [make_view(policy=policy) for policy in names()]
    views += [make_view(minority_policy=policy) for policy in names()]
    views += [make_view(mix=mix) for mix in MIXES[:2]]
    views += [make_view(is_blank=True), make_view(policy="none", minority_policy="light")]

    identities = [view.identity for view in views]

    assert len(set(identities)) == len(identities)


def test_the_evaluation_view_is_one_for_all_epochs() -> None:
    view = make_view(policy="none")

    assert not view.is_random and view.number(7) == 0
