"""Multi-depth extraction: one pass over the images gives a trial's activations and those of other depths."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.activations.cost_model import CostModel, Cut
from trainables.activations.rows import Activations, Compute
from trainables.device.memory import FittingSize, is_out_of_memory
from trainables.model.frozen_prefixes import FrozenPrefixes
from trainables.model.stages import Depth

Rows = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class MultiDepthExtraction:
    """Computes activations of other depths, for other trials, in one pass with the trial's own."""

    prefixes: FrozenPrefixes
    cut: Cut
    """The trial's own cut."""

    costs: CostModel
    chance: float
    """Probability that another trial will read the activations of a given depth."""

    def time(self, images: Tensor) -> None:
        """Measure each depth's time, once on this machine; the first of two passes only warms up."""
        cuts = {depth: replace(self.cut, depth=depth) for depth in self.prefixes.row_shapes}
        if all(self.costs.compute_seconds(cut) is not None for cut in cuts.values()):
            return
        for is_measured in (False, True):
            begin = time.perf_counter()
            for depth, rows in self.prefixes.outputs(images):
                rows.cpu()
                if is_measured:
                    seconds = time.perf_counter() - begin
                    self.costs.record(cuts[depth], images=len(images), seconds=seconds)

    def largest(self, images: Tensor, fitting: FittingSize) -> dict[Depth, float]:
        """The largest absolute activation that the images have at each depth."""

        def largest_of_each(chunk: Tensor) -> Tensor:
            return torch.stack(
                [rows.abs().flatten(1).amax(1) for _, rows in self.prefixes.outputs(chunk)], dim=1
            )

        values = fitting.compute(largest_of_each, images).amax(0).tolist()
        return dict(zip(self.prefixes.row_shapes, values, strict=True))

    def choose(self, is_worth_keeping: Callable[[Cut, tuple[int, ...]], bool]) -> tuple[Depth, ...]:
        """Other depths whose activations are worth their space and the time they add to the pass.

        The outputs of shorter prefixes are computed on the way. A longer prefix adds time, which is less than
        a trial of that depth would need by itself, but there is one only with probability `chance`.
        """
        depths, own = list(self.prefixes.row_shapes), self.costs.compute_seconds(self.cut)
        chosen = []
        for depth in depths:
            cut = replace(self.cut, depth=depth)
            whole = self.costs.compute_seconds(cut)
            if depth == self.cut.depth or own is None or whole is None:
                continue
            on_the_way = depths.index(depth) < depths.index(self.cut.depth)
            if (on_the_way or self.chance * whole > whole - own) and is_worth_keeping(
                cut, self.prefixes.row_shapes[depth]
            ):
                chosen.append(depth)
        return tuple(chosen)

    def row_shape(self, depth: Depth) -> tuple[int, ...]:
        return self.prefixes.row_shapes[depth]

    def compute_together(
        self, others: Mapping[Depth, Activations], *, images: Callable[[int, int], Tensor], alone: Compute
    ) -> Compute:
        """Make a function that computes the trial's rows and missing rows of other depths in one pass.

        Where the pass runs out of memory, the trial's own rows are computed `alone`.
        """

        def compute(start: int, stop: int) -> Rows:
            reserved = {depth: kept for depth, kept in others.items() if kept.reserve(start, stop)}
            rows: dict[Depth, Rows] = {}
            try:
                if reserved:
                    rows = self._pass_over(images, start, stop, wanted={self.cut.depth, *reserved})
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            finally:
                for depth, kept in reserved.items():
                    kept.release(start, rows.get(depth))
            return rows[self.cut.depth] if self.cut.depth in rows else alone(start, stop)

        return compute

    def _pass_over(
        self, images: Callable[[int, int], Tensor], start: int, stop: int, *, wanted: set[Depth]
    ) -> dict[Depth, Rows]:
        rows: dict[Depth, Rows] = {}
        begin = time.perf_counter()
        for depth, features in self.prefixes.outputs(images(start, stop)):
            if depth in wanted:
                rows[depth] = features.cpu().numpy()
            if depth == self.cut.depth:
                self.costs.record(self.cut, images=stop - start, seconds=time.perf_counter() - begin)
            if rows.keys() == wanted:
                break
        return rows
