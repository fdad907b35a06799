"""Ensemble: several trained classifiers as one network, which computes what they share once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from contract.answer import Combination, MemberRef, Pooling
from contract.messages import StudySettings
from trainables.export.members import Configs, Member, common_fit, load_members
from trainables.model.classifier import Normalise, probe_images
from trainables.model.stages import UNTRACEABLE, Depth, cut_at_all

NEAR = 1e-5
"""Largest difference of activations that are the same, relative to the largest of them."""


class Tail(nn.Module):
    """What is a member's own: the frozen prefix's output -> logits."""

    def __init__(self, ref: MemberRef, suffix: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.ref, self.suffix, self.head = ref, suffix, head

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.suffix(features))
        return logits


class Branch(nn.Module):
    """One pass of the images through frozen layers, and the tails that begin at several points of it."""

    def __init__(
        self,
        normalise: Normalise,
        segments: Sequence[nn.Module],
        tails: Sequence[Sequence[Tail]],
        *,
        flip: bool,
    ) -> None:
        """The tails at 0 take the normalised images, those at i the output of the i-th segment."""
        super().__init__()
        self.normalise, self.flip = normalise, flip
        self.segments = nn.ModuleList(segments)
        self.tails = nn.ModuleList(nn.ModuleList(group) for group in tails)

    @property
    def points(self) -> list[list[Tail]]:
        """The tails at each point, in the order of the outputs."""
        return [[cast("Tail", tail) for tail in cast("nn.ModuleList", group)] for group in self.tails]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits [N, classes] of every tail."""
        state = self.normalise(images.flip(-1) if self.flip else images)
        outputs = [tail(state) for tail in self.points[0]]
        for segment, tails in zip(self.segments, self.points[1:], strict=True):
            state = segment(state)
            outputs += [tail(state) for tail in tails]
        return outputs


class Members(nn.Module):
    """Images [N, 3, S, S] in [0, 1] -> log-probabilities of each member, [members, N, classes]."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(make_branches(members))
        order = [
            tail.ref for branch in self.branches for point in cast("Branch", branch).points for tail in point
        ]
        self._order = [order.index(member.ref) for member in members]

    def forward(self, images: Tensor) -> Tensor:
        logits = [output for branch in self.branches for output in branch(images)]
        return torch.stack([logits[place].log_softmax(dim=1) for place in self._order])


class CombinedClassifier(nn.Module):
    """A combination as one network: images [N, 3, S, S] in [0, 1] -> probabilities [N, classes]."""

    def __init__(self, members: Sequence[Member], combination: Combination) -> None:
        super().__init__()
        shares = {member.ref: member.weight for member in combination.members}
        self.pools_logits = combination.pooling is Pooling.LOGITS or len(members) == 1
        self.temperature = combination.temperature
        branches = make_branches(members)
        self._shares: list[float] = []
        for branch in branches:
            for place, tails in enumerate(branch.points):
                kept = (
                    merge_linear(tails, shares)
                    if self.pools_logits
                    else [(tail, shares[tail.ref]) for tail in tails]
                )
                branch.tails[place] = nn.ModuleList(tail for tail, _ in kept)
                self._shares += [share for _, share in kept]
        self.branches = nn.ModuleList(branches)

    def forward(self, images: Tensor) -> Tensor:
        outputs = [output for branch in self.branches for output in branch(images)]
        if self.pools_logits:
            # Logits are log-probabilities up to a constant of the image, which the softmax takes away.
            weighted = [share * logits for share, logits in zip(self._shares, outputs, strict=True)]
            pooled = torch.stack(weighted).sum(dim=0)
        else:
            weighted = [
                logits.log_softmax(dim=1) + math.log(share)
                for share, logits in zip(self._shares, outputs, strict=True)
            ]
            pooled = torch.stack(weighted).logsumexp(dim=0)
        return (pooled / self.temperature).softmax(dim=1)


def load_combination(
    combination: Combination, configs: Configs, settings: StudySettings
) -> CombinedClassifier:
    """Load a combination as one network, in eval mode on the CPU.

    Raises:
        ValueError: a member's weights are gone, the members want their images made square in several ways,
            or the shares or the temperature make no combination.
    """
    members = [member for member in combination.members if member.weight]
    refs = [member.ref for member in members]
    if not members or min(member.weight for member in members) < 0 or len(set(refs)) < len(refs):
        raise ValueError("a combination needs members, each once, with positive weights")
    if not math.isclose(sum(member.weight for member in members), 1, abs_tol=1e-6):
        raise ValueError(f"the weights of a combination add up to 1, not {sum(m.weight for m in members):g}")
    if not combination.temperature > 0:
        raise ValueError(f"the temperature must be positive, got {combination.temperature}")
    common_fit(refs, configs, settings)
    return CombinedClassifier(load_members(refs, configs, settings), combination).eval()


def make_branches(members: Sequence[Member]) -> list[Branch]:
    """Put members together that see the same images and have frozen layers of the same network."""

    def key(member: Member) -> tuple[str, str]:
        return member.network, member.ref.view

    groups = [list(group) for _, group in groupby(sorted(members, key=key), key)]
    segments: dict[tuple[str, tuple[Depth, ...]], list[tuple[Depth, nn.Module]]] = {}
    return [branch for group in groups for branch in _branches_of(group, segments)]


@dataclass(eq=False)
class _Trunk:
    """Frozen segments in a row, and the depth's own tails behind each of them."""

    segments: list[nn.Module]
    outputs: list[Tensor]
    """Activations of the probe images behind each segment."""
    tails: list[list[Tail]] = field(default_factory=list)


def _branches_of(
    group: Sequence[Member], known: dict[tuple[str, tuple[Depth, ...]], list[tuple[Depth, nn.Module]]]
) -> list[Branch]:
    normalise, flip = group[0].classifier.normalise, bool(group[0].ref.view)
    if len(group) == 1:
        classifier = group[0].classifier
        return [
            Branch(normalise, [], [[Tail(group[0].ref, classifier.backbone, classifier.head)]], flip=flip)
        ]
    size = group[0].image_size
    images = normalise(probe_images(torch.empty(0, 3, size, size)))
    prefixes = {member.classifier.depth: member.classifier.prefix[-1] for member in group}
    frozen = tuple(depth for depth, prefix in prefixes.items() if not isinstance(prefix, nn.Identity))
    key = (group[0].network, tuple(sorted(frozen, key=str)))
    if key not in known:
        known[key] = _cut(group, frozen)
    trunks = [_trunk([part for _, part in known[key]], images)]
    for member in group:
        classifier = member.classifier
        tail = Tail(member.ref, classifier.suffix, classifier.head)
        if isinstance(classifier.prefix[-1], nn.Identity):
            trunks[0].tails[0].append(tail)
            continue
        with torch.no_grad():
            wanted = classifier.prefix[-1](images)
        trunk, place = _find(trunks, wanted) or (_trunk([classifier.prefix[-1]], images), 1)
        trunk.tails[place].append(tail)
        if trunk not in trunks:
            trunks.append(trunk)
    return [Branch(normalise, trunk.segments, trunk.tails, flip=flip) for trunk in trunks if any(trunk.tails)]


def _cut(group: Sequence[Member], depths: Sequence[Depth]) -> list[tuple[Depth, nn.Module]]:
    """Cut the network at all depths, taking the frozen layers of the member with the longest prefix."""
    if not depths:
        return []
    longest = max(
        (member.classifier for member in group if member.classifier.depth in depths),
        key=lambda classifier: len(list(classifier.prefix.modules())),
    )
    try:
        return cut_at_all(longest.backbone, depths)
    except UNTRACEABLE:
        return []


@torch.no_grad()
def _trunk(segments: list[nn.Module], images: Tensor) -> _Trunk:
    outputs, state = [], images
    for segment in segments:
        state = segment.eval()(state)
        outputs.append(state)
    return _Trunk(segments, outputs, [[] for _ in range(len(segments) + 1)])


def _find(trunks: Iterable[_Trunk], wanted: Tensor) -> tuple[_Trunk, int] | None:
    """Find where these activations come out of a trunk.

    Several borders may move a cut past a layer without parameters, so outputs are compared, not names.
    """
    for trunk in trunks:
        for place, found in enumerate(trunk.outputs, start=1):
            if found.shape == wanted.shape and (found - wanted).abs().max() <= NEAR * wanted.abs().max():
                return trunk, place
    return None


def merge_linear(tails: Sequence[Tail], shares: dict[MemberRef, float]) -> list[tuple[Tail, float]]:
    """Merge the linear heads on the same features to one, and return each tail with its share.

    A weighted mean of linear layers is a linear layer; a batch norm before it is one too.
    """
    found = [(tail, _as_linear(tail)) for tail in tails]
    linear = [(tail, layer) for tail, layer in found if layer is not None]
    kept = [(tail, shares[tail.ref]) for tail, layer in found if layer is None]
    if len(linear) < 2:
        return [(tail, shares[tail.ref]) for tail in tails]
    merged = nn.Linear(linear[0][1][0].shape[1], linear[0][1][0].shape[0])
    with torch.no_grad():
        merged.weight.copy_(sum_of([shares[tail.ref] * weight for tail, (weight, _) in linear]))
        merged.bias.copy_(sum_of([shares[tail.ref] * bias for tail, (_, bias) in linear]))
    head = nn.Sequential(nn.Flatten(), merged)
    return [(Tail(linear[0][0].ref, nn.Identity(), head), 1.0), *kept]


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(list(tensors)).sum(dim=0)


@torch.no_grad()
def _as_linear(tail: Tail) -> tuple[Tensor, Tensor] | None:
    """Weight and bias, float64, of a tail that is a linear layer in eval mode, perhaps with batch norm."""
    layers = [layer for layer in tail.head.modules() if not list(layer.children())]
    rest = [layer for layer in layers if not isinstance(layer, nn.Flatten | nn.Dropout | nn.Identity)]
    if not isinstance(tail.suffix, nn.Identity) or not rest or not isinstance(rest[-1], nn.Linear):
        return None
    weight, bias = rest[-1].weight.double(), rest[-1].bias.double()
    if len(rest) == 1:
        return weight, bias
    norm = rest[0]
    if (
        len(rest) > 2
        or not isinstance(norm, nn.BatchNorm1d)
        or norm.running_var is None
        or norm.running_mean is None
    ):
        return None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    return weight * scale, bias + weight @ shift
