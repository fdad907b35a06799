"""Writes the program that scores images for unknown classes, by the features of the frozen backbone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contract.decoding import Fit
from contract.messages import StudySettings
from contract.model_layout import ModelPaths
from contract.unknown_score import GAMMA, MOST_SUMMED, DistanceScore
from trainables.activations.shared import load_splits
from trainables.export.frozen_features import FrozenBackbone
from trainables.images.split_view import ViewSettings
from trainables.model.classifier import probe_images
from trainables.model.cpu.folding import folded

ScoreProgram = Callable[[Tensor, Tensor], Tensor]
"""Images [N, 3, S, S] in [0, 1] and their probabilities [N, C] -> scores [N], low for unknown classes."""

NUM_IMAGES = 32
"""Validation images that are compared, or all where there are fewer."""

BATCH = 16

TOLERANCE_CPU, TOLERANCE_GPU = 0.1, 0.5
"""Largest median difference of a score from the one that the threshold was set by, in spreads of the score.

A feature may have been rounded to float16, and on a GPU computed in bfloat16.
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredImages:
    """Validation images with the scores that the threshold was set by."""

    ids: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    """Calibrated, [N, C]."""

    scores: NDArray[np.float64]


class UnknownScorer(nn.Module):
    """Minus the log distance of frozen features to the nearest class, to which entropy may be added."""

    def __init__(self, prefix: nn.Module, parts: DistanceScore) -> None:
        super().__init__()
        self.prefix = prefix
        for name, values in arrays_of(parts).items():
            self.register_buffer(name, values)
        self.center: Tensor
        self.whitening: Tensor
        self.means: Tensor
        self.scales: Tensor

    def forward(self, images: Tensor, probabilities: Tensor) -> Tensor:
        features = self.prefix(images).flatten(1)
        units = features / features.norm(dim=1, keepdim=True).clamp_min(1e-6)
        own = (units - self.center) @ self.whitening
        squares = own.square().sum(1, keepdim=True) - 2 * own @ self.means.T + self.means.square().sum(1)
        distance = -squares.amin(1).clamp_min(1e-12).log()
        share, middle, spread, own_middle, own_spread = self.scales.unbind()
        entropy = negative_entropy(probabilities)
        return share * (entropy - middle) / spread + (distance - own_middle) / own_spread


def arrays_of(parts: DistanceScore) -> dict[str, Tensor]:
    """Buffers of a scorer, float32, by their names.

    center [D], whitening [D, D], means [C, D] after whitening, and scales [5]: 1 where the entropy counts and
    0 where it does not, its median and spread, and those of the distance.
    """
    means, whitening = parts.means.astype(np.float64), parts.whitening.astype(np.float64)
    center = means.mean(axis=0)
    of_entropy, of_distance = parts.scales or ((0.0, 1.0), (0.0, 1.0))
    scales = np.array([parts.scales is not None, *of_entropy, *of_distance], dtype=np.float64)
    found = {
        "center": center,
        "whitening": whitening,
        "means": (means - center) @ whitening,
        "scales": scales,
    }
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in found.items()}


def negative_entropy(probabilities: Tensor) -> Tensor:
    """Minus the generalised entropy of probabilities [N, C], as `contract.unknown_score` has it, [N]."""
    tiny = torch.finfo(torch.float32).tiny
    ordered = probabilities.clamp_min(tiny).double().sort(dim=1, descending=True).values
    others = torch.cat([ordered[:, 1:].sum(1, keepdim=True), 1 - ordered[:, 1:]], dim=1)
    terms = (ordered * others.clamp_min(0)).pow(GAMMA)
    return -terms[:, :MOST_SUMMED].sum(1).float()


_prepared: dict[tuple[Any, ...], torch.export.ExportedProgram] = {}
"""At most one program whose score is still to be filled in, by all that its graph depends on."""


def prepare_unknown_program(config: Mapping[str, Any], settings: StudySettings, *, num_means: int) -> None:
    """Trace the program that `export_unknown_program` will write, before the score is known: about a second.

    Args:
        num_means: classes with images.
    """
    frozen = FrozenBackbone.of(config, settings, device=torch.device("cpu"))
    program = _trace(frozen, settings, num_means)
    _prepared.clear()
    _prepared[_key(frozen, settings, num_means)] = program


def export_unknown_program(
    parts: DistanceScore,
    config: Mapping[str, Any],
    settings: StudySettings,
    *,
    target: ModelPaths,
    scored: ScoredImages,
) -> None:
    """Write the program `unknown.pt2` of a score by the features of a configuration's pretrained backbone.

    Raises:
        ValueError: it scores validation images otherwise than they were scored.
    """
    frozen, num_means = FrozenBackbone.of(config, settings, device=torch.device("cpu")), len(parts.means)
    program = _prepared.pop(_key(frozen, settings, num_means), None) or _trace(frozen, settings, num_means)
    program.state_dict.update(arrays_of(parts))
    _check(program.module(), settings, fit=frozen.fit, scored=scored)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found", category=UserWarning)
        torch.export.save(program, target.unknown)


def _key(frozen: FrozenBackbone, settings: StudySettings, num_means: int) -> tuple[Any, ...]:
    return frozen.key, frozen.weights, settings.image_size, len(settings.classes), num_means


def _trace(frozen: FrozenBackbone, settings: StudySettings, num_means: int) -> torch.export.ExportedProgram:
    """Trace a scorer whose means are zero; its graph is that of any other score of the same shape."""
    size, num_classes = settings.image_size, len(settings.classes)
    with torch.no_grad():
        images = probe_images(torch.empty(0, 3, size, size))
        prefix = folded(frozen.classifier.prefix, images)
        width = prefix(images).flatten(1).shape[1]
        blank = DistanceScore(
            means=np.zeros((num_means, width), np.float32), whitening=np.eye(width, dtype=np.float32)
        )
        batch = {0: torch.export.Dim("images", min=1, max=4096)}
        return torch.export.export(
            UnknownScorer(prefix, blank).eval(),
            (images, torch.full((2, num_classes), 1 / num_classes)),
            dynamic_shapes={"images": batch, "probabilities": batch},
        )


def score_images(
    program: ScoreProgram,
    settings: StudySettings,
    name: Literal["val", "test"],
    *,
    fit: Fit,
    ids: NDArray[np.int64],
    probabilities: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Score images of a split, given by their ids [N] with their probabilities [N, C].

    Raises:
        ValueError: one is not of the split.
    """
    split = load_splits(settings, fit, torch.device("cpu"), (name,))[name]
    view = ViewSettings(policy="none", image_size=settings.image_size, fit=fit, seed=settings.seed)
    place = {int(number): at for at, number in enumerate(split.ids)}
    if not set(ids.tolist()) <= set(place):
        raise ValueError(f"{settings.paths.directory}: these are not images of the {name} split")
    positions = np.array([place[int(number)] for number in ids], np.int64)
    chunks = [np.empty(0)]
    with torch.inference_mode():
        for start in range(0, len(ids), BATCH):
            rows = slice(start, start + BATCH)
            images = view.images(split, positions[rows], epoch=0, device=torch.device("cpu"))
            given = torch.from_numpy(probabilities[rows].astype(np.float32))
            chunks.append(program(images, given).double().numpy())
    return np.concatenate(chunks)


def _check(program: ScoreProgram, settings: StudySettings, *, fit: Fit, scored: ScoredImages) -> None:
    rows = np.random.default_rng(settings.seed).permutation(len(scored.ids))[:NUM_IMAGES]
    found = score_images(
        program, settings, "val", fit=fit, ids=scored.ids[rows], probabilities=scored.probabilities[rows]
    )
    lower, upper = np.quantile(scored.scores, (0.16, 0.84))
    difference = float(np.median(np.abs(found - scored.scores[rows]))) / max(float(upper - lower) / 2, 1e-3)
    tolerance = TOLERANCE_GPU if settings.use_gpu else TOLERANCE_CPU
    if not difference <= tolerance:
        raise ValueError(
            f"the program for unknown classes scores validation images otherwise than they were scored: by "
            f"{difference:.2f} spreads of the score (at most {tolerance:g} is taken for rounding); the "
            "weights of the backbone were changed since"
        )
