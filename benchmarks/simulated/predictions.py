"""Predictions of simulated trials whose true scores are known.

The latent values of an image's classes are normal, and a trial's skill is added to that of the right class:
x = skill * [class is right] + sqrt(shared) * u + sqrt(1 - shared) * e, where u belongs to the image and e to
image and trial. softmax(skill * x) is then the exact posterior, and each trial is over- or underconfident by
a factor of its own. So trials err on the same images, as real ones do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer.pool import Candidate, Pool
from analysis.answer.rules import Choice
from analysis.answer.scores import ImageScores, score_shares
from analysis.predictions import Array
from contract.answer import MemberRef

TRUTH_IMAGES = 100_000


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting of the simulation."""

    name: str
    trials: int
    images: int
    greedy: bool = False
    """The greedy rules take part; else the single best alone."""

    spread: float = 0.12
    """Standard deviation of the trials' skills; 0.1 is 1.2 points of accuracy."""

    adaptive: bool = False
    """Each trial is drawn around the best so far, and errs partly like it."""

    group_size: int = 1
    skill: float = 2.45
    """Mean skill: 2.45 is an accuracy of 89.6%."""

    shared: float = 0.9
    """Share of the latent noise that is the image's: 0.9 makes trials' successes correlate by 0.7."""

    classes: int = 5


@dataclass(frozen=True, eq=False)
class Simulated:
    """A simulated study."""

    pool: Pool
    skills: Array
    confidences: Array
    """Factor of each trial's logits: 1 = calibrated."""


INHERITED = 0.5
"""Share of a trial's own noise that an adaptive search's later trial takes over from the best so far."""

GROUP_SHARE = 0.8
"""Share of an image's noise that is its group's."""


def simulate(cell: Cell, generator: np.random.Generator) -> Simulated:
    """Draw a study's trials and their validation predictions."""
    groups = np.arange(cell.images) // cell.group_size
    labels = generator.integers(0, cell.classes, int(groups.max()) + 1)[groups]
    image_noise = _normal(generator, (cell.images, cell.classes))
    if cell.group_size > 1:
        of_group = _normal(generator, (int(groups.max()) + 1, cell.classes))[groups]
        image_noise = _mix(of_group, image_noise, GROUP_SHARE)
    noise = _normal(generator, (cell.trials, cell.images, cell.classes))
    skills = cell.skill + cell.spread * generator.standard_normal(cell.trials)
    confidences = np.exp(0.25 * generator.standard_normal(cell.trials))
    if cell.adaptive:
        best, best_right = 0, -1.0
        for trial in range(cell.trials):
            if trial >= cell.trials // 4:  # the first quarter is drawn at random
                skills[trial] = skills[best] + 0.5 * cell.spread * generator.standard_normal()
                noise[trial] = _mix(noise[best], noise[trial], INHERITED)
            values = _log_posterior(
                skills[[trial]], np.ones(1), labels, image_noise, noise[[trial]], cell.shared
            )
            right = float((values[0].argmax(axis=1) == labels).mean())
            if right > best_right:
                best, best_right = trial, right
    values = _log_posterior(skills, confidences, labels, image_noise, noise, cell.shared)
    return Simulated(_make_pool(values, labels, groups), skills, confidences)


def find_truth(
    cell: Cell, simulated: Simulated, choices: Sequence[Choice], generator: np.random.Generator
) -> list[ImageScores]:
    """Score what several rules chose on the same TRUTH_IMAGES fresh images."""
    members = np.unique(np.concatenate([choice.members for choice in choices]))
    labels = generator.integers(0, cell.classes, TRUTH_IMAGES)
    image_noise = _normal(generator, (TRUTH_IMAGES, cell.classes))
    if len(members) == 1:
        noise, shared = image_noise[None], 1.0  # the sum of both noises is normal, too
    else:
        noise, shared = _normal(generator, (len(members), *image_noise.shape)), cell.shared
    of = simulated.skills[members], simulated.confidences[members]
    pool = _make_pool(_log_posterior(*of, labels, image_noise, noise, shared), labels, np.arange(len(labels)))
    every = np.arange(TRUTH_IMAGES)
    return [score_shares(pool, choice.shares[members], choice.pooling, every) for choice in choices]


def _make_pool(values: Array, labels: Array, groups: Array) -> Pool:
    candidates = tuple(
        Candidate(MemberRef("trial", number), f"trial {number}", "simulated", "simulated", 1.0, True)
        for number in range(len(values))
    )
    return Pool(candidates, values, labels, groups, np.arange(len(labels)))


def _log_posterior(
    skills: Array, confidences: Array, labels: Array, image_noise: Array, noise: Array, shared: float
) -> Array:
    """Return float32 [trials, images, classes]."""
    latent = _mix(image_noise[None], noise, shared)
    latent[:, np.arange(len(labels)), labels] += skills[:, None].astype(np.float32)
    latent *= (skills * confidences).astype(np.float32)[:, None, None]
    shares = np.exp(latent)  # far below the largest float32: the latent values are below 30
    total = shares[..., 0].copy()
    for number in range(1, latent.shape[2]):  # numpy's sum over a short last axis takes several times as long
        total += shares[..., number]
    latent -= np.log(total)[..., None]
    return latent


def _mix(first: Array, second: Array, share: float) -> Array:
    mixed: Array = np.float32(np.sqrt(share)) * first + np.float32(np.sqrt(1 - share)) * second
    return mixed


def _normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return generator.standard_normal(shape, dtype=np.float32)
