"""SplitView: the images of one split, train or val, and the views of them that trials share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.decoding import Fit, Pixels
from trainables.data.augmentation import augment, draw_mirrors, mirror, to_bytes
from trainables.data.mixing import NO_MIX, Mix, MixDraws, draw_mix, mix_labels, mix_views
from trainables.data.policies import find_policy, policy_identity
from trainables.device.prefetch import to_device

Positions = NDArray[np.int64]


class StoredImages(Protocol):
    """Images that are taken by row: an image store, or two of them."""

    def take(self, indices: Positions) -> Pixels:
        """Copy the images of a batch: uint8 [B, S, S, 3]."""


@dataclass(frozen=True, eq=False)
class TwoStores:
    """Images of two stores, those of the first before those of the second."""

    first: StoredImages
    second: StoredImages
    num_first: int

    def take(self, indices: Positions) -> Pixels:
        """Copy the images of a batch: uint8 [B, S, S, 3]."""
        in_second = indices >= self.num_first
        if not in_second.any():
            return self.first.take(indices)
        others = self.second.take(indices[in_second] - self.num_first)
        taken = np.empty((len(indices), *others.shape[1:]), dtype=np.uint8)
        taken[in_second] = others
        taken[~in_second] = self.first.take(indices[~in_second])
        return taken


class Part(NamedTuple):
    """A view that holds images of another one."""

    view: SplitView
    rows: Positions | None = None
    """Positions of the images in it; None = all of them, in its order."""

    @property
    def num_rows(self) -> int:
        """Number of the images."""
        return len(self.view) if self.rows is None else len(self.rows)


@dataclass(frozen=True, kw_only=True)
class SplitView:
    """The images and labels of one split, in a fixed order."""

    store: StoredImages
    ids: NDArray[np.int64]
    """Rows of the image store."""

    labels: Tensor
    """int64 [N], on the trial's device."""

    num_classes: int
    view_ids: NDArray[np.int64]
    """What each image's views are drawn from: its content's hash, so that all studies see the same ones."""

    copies: NDArray[np.int64]
    """0 = the image itself; over-sampled images appear again as 1, 2, …, with views of their own."""

    digest: str
    """Hash of the images' contents, in this order."""

    parts: tuple[Part, ...] = ()
    """Views whose activations are cached in place of these images' own: theirs one after the other."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def stored(self) -> tuple[Part, ...]:
        """Views whose activations are cached for these images: `parts`, or the view itself."""
        return self.parts or (Part(self),)

    @cached_property
    def labelled_digest(self) -> str:
        """Hash of the images' contents and classes, in this order."""
        return hashlib.sha256(self.digest.encode() + self.labels.cpu().numpy().tobytes()).hexdigest()

    @cached_property
    def by_content(self) -> Positions:
        """All positions, in an order that depends on the images' contents alone."""
        return np.lexsort((self.copies, self.view_ids))

    @cached_property
    def _by_class(self) -> tuple[Positions, NDArray[np.int64]]:
        """`by_content` class by class, and where each class begins in it, [classes + 1]."""
        labels = self.labels.cpu().numpy()[self.by_content]
        sizes = np.bincount(labels, minlength=self.num_classes)
        return self.by_content[np.argsort(labels, kind="stable")], np.concatenate([[0], np.cumsum(sizes)])

    def draw_of_class(self, labels: NDArray[np.int64], draws: NDArray[np.float64]) -> Positions:
        """Position of an image of each of these classes, [B], by draws in [0, 1)."""
        ordered, starts = self._by_class
        sizes = starts[labels + 1] - starts[labels]
        drawn: Positions = ordered[starts[labels] + (draws * sizes).astype(np.int64)]
        return drawn


def view_id(digest: str) -> int:
    """The number from which an image's views are drawn, given the hash of its file."""
    return int(digest[:15], 16)


def joined(first: SplitView, second: SplitView) -> SplitView:
    """All images of two views, those of the first before those of the second."""
    content = hashlib.sha256(f"{first.digest} {second.digest}".encode())
    return SplitView(
        store=first.store,
        ids=np.concatenate([first.ids, second.ids]),
        labels=torch.cat([first.labels, second.labels]),
        num_classes=first.num_classes,
        view_ids=np.concatenate([first.view_ids, second.view_ids]),
        copies=np.concatenate([first.copies, second.copies]),
        digest=content.hexdigest(),
    )


def part_of(whole: SplitView, rows: Positions) -> SplitView:
    """Some images of a view, by position; their activations are rows of the whole view's."""
    content = hashlib.sha256(whole.digest.encode() + rows.tobytes())
    return SplitView(
        store=whole.store,
        ids=whole.ids[rows],
        labels=whole.labels[torch.from_numpy(rows).to(whole.labels.device)],
        num_classes=whole.num_classes,
        view_ids=whole.view_ids[rows],
        copies=whole.copies[rows],
        digest=content.hexdigest(),
        parts=(Part(whole, rows),),
    )


def with_synthetic(train: SplitView, synthetic: SplitView, *, num: int) -> SplitView:
    """Add the first `num` synthetic images behind those that a trial trains on.

    The activations of the real images stay those of trials without synthetic ones, and trials with different
    numbers of synthetic images share theirs.
    """
    added = part_of(synthetic, np.arange(num))
    num_first = int(train.ids.max()) + 1
    both = joined(train, replace(added, ids=added.ids + num_first))
    store = TwoStores(train.store, synthetic.store, num_first)
    return replace(both, store=store, parts=(*train.stored, *added.parts))


def oversampled(split: SplitView) -> SplitView:
    """Add copies of the smaller classes' images, so that all classes are equally large."""
    rows, copies = oversample(split.labels.cpu().numpy())
    content = hashlib.sha256(split.digest.encode() + rows.tobytes() + copies.tobytes())
    return SplitView(
        store=split.store,
        ids=split.ids[rows],
        labels=split.labels[torch.from_numpy(rows).to(split.labels.device)],
        num_classes=split.num_classes,
        view_ids=split.view_ids[rows],
        copies=copies,
        digest=content.hexdigest(),
    )


def oversample(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Repeat positions until every class is as large as the largest: (positions, numbers of the copies).

    The originals, copy 0, come first and in their order; then follow the copies, each class's images in turn.
    """
    counts = np.bincount(labels)
    rows, copies = [np.arange(len(labels))], [np.zeros(len(labels), dtype=np.int64)]
    for label in np.flatnonzero(counts):
        members, extra = np.flatnonzero(labels == label), int(counts.max() - counts[label])
        rows.append(np.resize(members, extra))
        copies.append(1 + np.arange(extra) // len(members))
    return np.concatenate(rows), np.concatenate(copies)


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """How an image becomes a network's input, and its label the loss's target."""

    policy: str
    image_size: int
    fit: Fit
    seed: int
    minority_policy: str = ""
    """Policy that over-sampled copies go through before the common one; empty = none."""

    mix: Mix = NO_MIX
    is_blank: bool = False
    """Make all pixels zero, whatever the image."""

    mirrored: int = 0
    """How every view is mirrored at last: bit 0 left and right, bit 1 top and bottom."""

    @property
    def is_random(self) -> bool:
        policies = {self.policy, self.minority_policy} - {"", "none"}
        return not self.is_blank and (bool(policies) or self.mix.is_on)

    @property
    def identity(self) -> str:
        """All that a view depends on beside the image, the size, the fit, the seed and the epoch."""
        if self.is_blank:
            return "blank"
        first = policy_identity(self.minority_policy) if self.minority_policy else ""
        last = f"mirrored-{self.mirrored}" if self.mirrored else ""
        return "+".join(filter(None, (first, policy_identity(self.policy), self.mix.identity, last)))

    @property
    def only_mirrors(self) -> bool:
        """Whether the views of all epochs are the image itself and what mirrors make of it."""
        plain = not (self.is_blank or self.minority_policy or self.mix.is_on)
        return plain and find_policy(self.policy).only_mirrors

    def with_mirror(self, how: int) -> ViewSettings:
        """The view that is mirrored in this way in every epoch."""
        return replace(self, policy="none", mirrored=how)

    def mirrors(self, split: SplitView, positions: Positions, *, epoch: int) -> Positions:
        """How each image at these positions is mirrored in an epoch, as `mirrored` numbers it."""
        return draw_mirrors(
            split.view_ids[positions],
            epoch=epoch,
            policy=self.policy,
            seed=self.seed,
            copy=split.copies[positions],
        )

    def number(self, epoch: int) -> int:
        """Number of an epoch's view: the epoch, or 0 (the evaluation view) where nothing is random."""
        return epoch if self.is_random else 0

    def images(self, split: SplitView, positions: Positions, *, epoch: int, device: torch.device) -> Tensor:
        """Views of the images at these positions, float32 [B, 3, size, size] in [0, 1], on the device."""
        if self.is_blank:
            return torch.zeros(len(positions), 3, self.image_size, self.image_size, device=device)
        if not self.mix.is_on:
            return self._augmented(split, positions, epoch=epoch, device=device)
        draws, partners = self._draw_mix(split, positions, epoch=epoch)
        wanted, where = np.unique(np.concatenate([positions, partners]), return_inverse=True)
        views = self._augmented(split, wanted, epoch=epoch, device=device)[torch.from_numpy(where).to(device)]
        return mix_views(views[: len(positions)], views[len(positions) :], draws)

    def targets(self, split: SplitView, positions: Positions, *, epoch: int) -> Tensor:
        """Classes, int64 [B]; with mixed views soft labels, float [B, classes]."""
        labels = _labels(split, positions)
        if not self.mix.is_on or self.mix.within_class:
            return labels
        draws, partners = self._draw_mix(split, positions, epoch=epoch)
        return mix_labels(labels, _labels(split, partners), draws, num_classes=split.num_classes)

    def _draw_mix(self, split: SplitView, positions: Positions, *, epoch: int) -> tuple[MixDraws, Positions]:
        """Draw how the images are mixed, and each partner's position: its own where it is not mixed."""
        draws = draw_mix(
            self.mix,
            seed=self.seed,
            epoch=epoch,
            ids=split.view_ids[positions],
            copy=split.copies[positions],
            size=self.image_size,
        )
        if self.mix.within_class:
            drawn = split.draw_of_class(split.labels.cpu().numpy()[positions], draws.partners)
        else:
            drawn = split.by_content[(draws.partners * len(split)).astype(np.int64)]
        return draws, np.where(draws.is_mixed, drawn, positions)

    def _augmented(
        self, split: SplitView, positions: Positions, *, epoch: int, device: torch.device
    ) -> Tensor:
        """Views before mixing, float32 [B, 3, size, size]."""
        stored = to_device(split.store.take(split.ids[positions]), device)
        copied = split.copies[positions] > 0
        if self.minority_policy and copied.any():
            stored = self._augment_copies(stored, split, positions, copied, epoch=epoch)
        views = augment(
            stored,
            ids=torch.from_numpy(split.view_ids[positions]),
            epoch=epoch,
            policy=self.policy,
            size=self.image_size,
            seed=self.seed,
            fit=self.fit,
            copy=split.copies[positions],
        )
        return mirror(views, self.mirrored)

    def _augment_copies(
        self, stored: Tensor, split: SplitView, positions: Positions, copied: NDArray[np.bool_], *, epoch: int
    ) -> Tensor:
        """Apply the minority policy to the copies among stored images, uint8 [B, S, S, 3], in that size."""
        rows = torch.from_numpy(np.flatnonzero(copied)).to(stored.device)
        views = augment(
            stored[rows],
            ids=torch.from_numpy(split.view_ids[positions][copied]),
            epoch=epoch,
            policy=self.minority_policy,
            size=stored.shape[1],
            seed=self.seed,
            fit="squash",
            copy=split.copies[positions][copied],
            purpose="minority/",
        )
        changed = stored.clone()
        changed[rows] = to_bytes(views)
        return changed


def _labels(split: SplitView, positions: Positions) -> Tensor:
    return split.labels[torch.from_numpy(positions).to(split.labels.device)]
