"""A trial's inputs: batches of augmented images, or of the cached output of its frozen prefix."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib import metadata
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.activations.cache import ActivationCache, ActivationKey
from trainables.activations.cost_model import CostModel, Cut
from trainables.activations.multi_depth import MultiDepthExtraction
from trainables.activations.rows import (
    ActivationPart,
    Activations,
    Compute,
    JoinedActivations,
    MirroredActivations,
)
from trainables.data.mixing import NO_MIX
from trainables.device.accelerator import number_format
from trainables.device.memory import FittingSize
from trainables.device.prefetch import one_ahead, to_device
from trainables.images import store as image_store
from trainables.images.split_view import Part, SplitView, ViewSettings
from trainables.model.classifier import Classifier
from trainables.model.frozen_prefixes import FrozenPrefixes
from trainables.model.stages import Depth

Precision = Literal["float16", "float32"]

PREFIX_REVISION = 1
"""Revision of this project's code between a stored image and a prefix's output: augmentation, folded batch
norms, depthwise convolutions. To be raised whenever a change there changes numbers."""

_LIBRARIES = ("timm", "torchvision")

EXTRACTION_BATCHES = {"cpu": 32, "cuda": 256}
"""Images in one forward pass of the prefix, and in one chunk of the cache, by type of device.

On a CPU 15 to 120 are equally fast. An H100 computed 4,089 images/s with 32 at once, 8,151 with 64 and 19,153
with 256 (lite0, 224 px, `python -m benchmarks gpu`): most of its time it waits for the next kernel.
"""

SMALL_ENTRY = 64 * 2**20
"""Bytes up to which activations are kept in single precision. In half precision a step's loss differs by up
to 4e-5 from the whole network's (lite0, 64 and 128 px), later ones by more; in single precision, by 1e-6."""

HALF_RANGE = 65504 / 16
"""Half precision ends at 65504. It is used where the first images' activations stay a factor of 16 below."""

_largest_known: dict[tuple[Hashable, ...], float] = {}
_row_shapes: dict[tuple[str, str, str, int], tuple[int, ...]] = {}


class Inputs:
    """Batches of one split for one classifier at one unfreeze depth."""

    def __init__(
        self,
        split: SplitView,
        view: ViewSettings,
        classifier: Classifier,
        *,
        trainable: Callable[[Tensor], Tensor],
        weights: str,
        backbone: str,
        cache: ActivationCache | None,
        costs: CostModel,
        threads: int,
        uses: float,
        dtype: Precision | Literal["auto"] = "auto",
        prefixes: FrozenPrefixes | None = None,
        chance: float = 0.0,
    ) -> None:
        """Decide whether the frozen prefix's output is cached, and in which precision.

        Args:
            trainable: suffix and head: the prefix's output -> logits.
            weights: identity of the weights, for keys.
            cache: None = images go through the whole network every time.
            uses: expected number of readings of each activation.
            dtype: precision that activations are rounded to; auto = their size and range decide.
            prefixes: frozen prefixes of the depths that may be computed in one pass with the trial's own.
            chance: probability that another trial will read the activations of a given depth.
        """
        self.split, self.view, self.classifier, self.trainable = split, view, classifier, trainable
        # Mixed views have partners of the split itself, so that nothing of the rest of a whole is seen.
        self._parts = (Part(split),) if view.mix.is_on else split.stored
        self._first = self._parts[0].view
        """The view whose first images decide what is decided for all."""
        self.weights, self.backbone, self.costs = weights, backbone, costs
        self.device = self.split.labels.device
        self.cut = Cut(
            backbone=backbone,
            depth=classifier.depth,
            image_size=view.image_size,
            device="cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device),
            policy=view.identity,
            threads=threads,
        )
        self._fitting = FittingSize()
        self.has_prefix = not isinstance(classifier.prefix[-1], nn.Identity)
        self._asked_dtype, self._uses = dtype, uses
        self._multi_depth = self._make_multi_depth(prefixes, chance)
        self.dtype = self._choose_dtype(self.cut.depth, self._row_shape()) if self.has_prefix else "float16"
        self.cache = cache if cache is not None and self._is_worth_caching() else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, classes] of the inputs that `batches` gives."""
        logits: Tensor = self.trainable(self.features(inputs))
        return logits

    def features(self, inputs: Tensor) -> Tensor:
        """Activations, which suffix and head take, of the inputs that `batches` gives."""
        if self.cache is not None:
            return inputs
        features = self.classifier.prefix_features(inputs)
        # Rounded as in the cache: what a trial computes must not depend on whether it was worth caching.
        return features.to(getattr(torch, self.dtype)) if self.has_prefix else features

    def batches(self, batches: Sequence[NDArray[np.int64]], *, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, targets) of batches given as positions in the split; on an accelerator one ahead."""
        return one_ahead(self._make_batches(batches, epoch=epoch), self.device)

    def _make_batches(
        self, batches: Sequence[NDArray[np.int64]], *, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        number = self.view.number(epoch)
        activations = self._open(number) if self.cache is not None else None
        for positions in batches:
            targets = self.view.targets(self.split, positions, epoch=number)
            if activations is None:
                compute = partial(self._images, self.split, epoch=number)
                yield self._fitting.compute(compute, positions), targets
            else:
                yield to_device(activations.rows(positions), self.device), targets

    def _choose_dtype(self, depth: Depth, row_shape: tuple[int, ...]) -> Precision:
        """Choose the precision that the activations of a depth are rounded to, cached or not.

        It follows from data and network alone, so that all trials and workers of a study choose the same,
        whatever is cached. Half precision has the digits of a prefix that computes in bfloat16, but a smaller
        range: the first images of the split show whether it suffices.
        """
        if self._asked_dtype != "auto":
            return self._asked_dtype
        is_small = 4 * math.prod(row_shape) * len(self._first) <= SMALL_ENTRY
        if is_small and number_format(self.device) == torch.float32:
            return "float32"
        return "float16" if self._largest(depth) <= HALF_RANGE else "float32"

    def _largest(self, depth: Depth) -> float:
        """The largest absolute activation at a depth, over the first images of the split, not augmented."""
        if self._probe_key(depth) not in _largest_known:
            for found, value in self._probe(depth).items():
                _largest_known[self._probe_key(found)] = value
        return _largest_known[self._probe_key(depth)]

    def _probe(self, depth: Depth) -> dict[Depth, float]:
        """Largest absolute activation, by depth: at the trial's own, or in one pass at all depths."""
        plain = replace(self.view, policy="none", minority_policy="", mix=NO_MIX)
        images = plain.images(self._first, self._first_positions(), epoch=0, device=self.device)
        if depth != self.cut.depth:
            assert self._multi_depth is not None
            return self._multi_depth.largest(images, self._fitting)
        rows = self._fitting.compute(self.classifier.prefix_features, images)
        return {depth: float(rows.abs().max())}

    def _probe_key(self, depth: Depth) -> tuple[Hashable, ...]:
        network = (self.backbone, self.weights, str(depth), self.view.image_size, str(self.device))
        return (*network, self.view.fit, self.view.is_blank, self._first.digest)

    def _is_worth_caching(self) -> bool:
        if not self.has_prefix:
            return False

        def probe() -> int:
            self._compute(self._first, self._first_positions(), epoch=1)
            return len(self._first_positions())

        if self._multi_depth is not None:
            self._multi_depth.time(self._images(self._first, self._first_positions(), epoch=1))
        return self._is_worth_keeping(self.cut, self._row_shape(), probe=probe)

    def _is_worth_keeping(
        self, cut: Cut, row_shape: tuple[int, ...], *, probe: Callable[[], int] | None = None
    ) -> bool:
        return self.costs.worth_caching(
            cut,
            row_bytes=np.dtype(self._choose_dtype(cut.depth, row_shape)).itemsize * math.prod(row_shape),
            num_rows=sum(len(part.view) for part in self._parts),
            uses=self._uses,
            probe=probe,
        )

    def _first_positions(self) -> NDArray[np.int64]:
        return np.arange(min(extraction_batch(self.device), len(self._first)))

    def _make_multi_depth(
        self, prefixes: FrozenPrefixes | None, chance: float
    ) -> MultiDepthExtraction | None:
        if prefixes is None or not self.has_prefix or self.cut.depth not in prefixes.row_shapes:
            return None
        return MultiDepthExtraction(prefixes=prefixes, cut=self.cut, costs=self.costs, chance=chance)

    def _compute(
        self, split: SplitView, positions: NDArray[np.int64], *, epoch: int, view: ViewSettings | None = None
    ) -> NDArray[np.float32]:
        """Activations in single precision; the cache rounds them, or `features` where nothing is cached."""

        def activations(chosen: NDArray[np.int64]) -> Tensor:
            return self.classifier.prefix_features(self._images(split, chosen, epoch=epoch, view=view)).cpu()

        rows: NDArray[np.float32] = self._fitting.compute(activations, positions).numpy()
        return rows

    def _images(
        self, split: SplitView, positions: NDArray[np.int64], *, epoch: int, view: ViewSettings | None = None
    ) -> Tensor:
        return (view or self.view).images(split, positions, epoch=epoch, device=self.device)

    def _open(self, number: int) -> JoinedActivations:
        """Open the activations of a view of all images of the split."""
        return JoinedActivations(
            [
                ActivationPart(self._open_entry(part.view, number), part.num_rows, part.rows)
                for part in self._parts
            ]
        )

    def _open_entry(self, split: SplitView, number: int) -> Activations | MirroredActivations:
        """Open the activations of a view; where views are mirrored images, one entry serves all epochs."""
        if not self.view.only_mirrors:
            return self._activations(split, self.view, number)
        return MirroredActivations(
            open_entry=lambda how: self._activations(split, self.view.with_mirror(how), 0),
            mirrors=partial(self.view.mirrors, split, epoch=number),
        )

    def _activations(self, split: SplitView, view: ViewSettings, number: int) -> Activations:

        def compute_rows(start: int, stop: int) -> NDArray[np.float32]:
            return self._compute(split, np.arange(start, stop), epoch=number, view=view)

        compute = self.costs.timed(self.cut, compute_rows)
        depths = self._multi_depth.choose(self._is_worth_keeping) if self._multi_depth is not None else ()
        if self._multi_depth is not None and depths:
            compute = self._multi_depth.compute_together(
                {depth: self._fetch(split, view, depth, number, compute) for depth in depths},
                images=lambda start, stop: self._images(
                    split, np.arange(start, stop), epoch=number, view=view
                ),
                alone=compute,
            )
        return self._fetch(split, view, self.cut.depth, number, compute)

    def _fetch(
        self, split: SplitView, view: ViewSettings, depth: Depth, number: int, compute: Compute
    ) -> Activations:
        """Open the entry of a depth; `compute` is called for the trial's own depth only."""
        assert self.cache is not None
        is_own = depth == self.cut.depth
        row_shape = (
            self._row_shape() if is_own or not self._multi_depth else self._multi_depth.row_shape(depth)
        )
        key = ActivationKey(
            # Whom an image may be mixed with in its class depends on the classes of all.
            data=split.labelled_digest if view.mix.within_class else split.digest,
            backbone=self.backbone,
            weights=self.weights,
            depth=depth,
            image_size=view.image_size,
            fit=view.fit,
            policy=view.identity,
            epoch=number,
            view_seed=view.seed if view.is_random else 0,
            computed_by=describe_arithmetic(self.device.type),
            dtype=self._choose_dtype(depth, row_shape),
        )
        return self.cache.fetch(
            key,
            num_rows=len(split),
            row_shape=row_shape,
            compute=compute,
            compute_rows=lambda positions: self._compute(split, positions, epoch=number, view=view),
            chunk_rows=extraction_batch(self.device),
        )

    def _row_shape(self) -> tuple[int, ...]:
        """Shape of one image's activations, found by sending a blank image through the prefix."""
        key = (self.backbone, self.weights, str(self.classifier.depth), self.view.image_size)
        if key not in _row_shapes:
            blank = torch.zeros(1, 3, self.view.image_size, self.view.image_size, device=self.device)
            _row_shapes[key] = tuple(self.classifier.prefix_features(blank).shape[1:])
        return _row_shapes[key]


def extraction_batch(device: torch.device) -> int:
    """Images in one forward pass of a frozen prefix; where they do not fit, `FittingSize` halves them."""
    return EXTRACTION_BATCHES.get(device.type, EXTRACTION_BATCHES["cpu"])


@cache
def describe_arithmetic(device_type: str) -> str:
    """Name the device, number format, library versions and own code that a prefix's output depends on.

    It is part of every key, so a new version of a library computes everything anew.
    """
    device = torch.device(device_type)
    splits = [
        device.type,
        str(number_format(device)).removeprefix("torch."),
        *_float32_products(device),
        f"torch {torch.__version__}",
        *(f"{name} {_version(name)}" for name in _LIBRARIES),
        f"prefix {PREFIX_REVISION}",
        f"images {image_store.FORMAT}",
    ]
    return ", ".join(splits)


def _float32_products(device: torch.device) -> list[str]:
    """Say whether a GPU rounds the inputs of float32 products to TensorFloat32; empty for a CPU."""
    if device.type == "cpu":
        return []
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    return [
        f"products in {'tf32' if products else 'float32'}",
        f"convolutions in {'tf32' if convolutions else 'float32'}",
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
