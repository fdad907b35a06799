"""Ensemble: several trained classifiers as one network, which computes what they share once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from contract.answer import Combination, MemberRef, Pooling
from contract.messages import StudySettings
from trainables.export.members import Configs, Member, common_fit, load_members
from trainables.model.classifier import Normalise, probe_images
from trainables.model.cpu.folding import folded
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
        branches = make_branches(members)
        fold_norms(branches, image_size=members[0].image_size)
        self.branches = nn.ModuleList(branches)
        order = [tail.ref for branch in branches for tails in branch.points for tail in tails]
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
                kept = [(tail, shares[tail.ref]) for tail in tails]
                if self.pools_logits:
                    kept = merge_linear(kept)
                branch.tails[place] = nn.ModuleList(tail for tail, _ in kept)
                self._shares += [share for _, share in kept]
        fold_norms(branches, image_size=members[0].image_size)
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
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.network, []).append(member)
    return [branch for group in groups.values() for branch in _branches_of(group)]


def _branches_of(group: Sequence[Member]) -> list[Branch]:
    """Make the branches of one network: one for each view, and more where it cannot be cut for all."""
    if len({member.classifier for member in group}) == 1:
        classifier = group[0].classifier
        return [
            Branch(
                classifier.normalise,
                [],
                [[Tail(member.ref, classifier.backbone, classifier.head)]],
                flip=bool(member.ref.view),
            )
            for member in group
        ]
    places = _find_places(group)
    chains: dict[tuple[str, int], dict[int, list[Tail]]] = {}
    for member in group:
        classifier = member.classifier
        place = places[classifier.depth]
        tails = chains.setdefault((member.ref.view, id(place.chain)), {})
        tails.setdefault(place.count, []).append(Tail(member.ref, classifier.suffix, classifier.head))
    by_id = {id(place.chain): place.chain for place in places.values()}
    return [
        Branch(
            group[0].classifier.normalise,
            by_id[chain][: max(tails)],
            [tails.get(count, []) for count in range(max(tails) + 1)],
            flip=bool(view),
        )
        for (view, chain), tails in chains.items()
    ]


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a depth's suffix begins: behind so many segments of a chain."""

    chain: list[nn.Module]
    count: int


@torch.no_grad()
def _find_places(group: Sequence[Member]) -> dict[Depth, _Place]:
    """Find where the suffix of each depth begins in one chain of frozen segments.

    Several borders may move a cut past a layer without parameters, so outputs are compared, not names. A
    depth whose prefix is found nowhere has it as a chain of its own.
    """
    size = group[0].image_size
    images = group[0].classifier.normalise(probe_images(torch.empty(0, 3, size, size)))
    prefixes = {member.classifier.depth: member.classifier.prefix[-1] for member in group}
    frozen = [depth for depth, prefix in prefixes.items() if not isinstance(prefix, nn.Identity)]
    chain = _cut(group, frozen)
    outputs = [images]
    for segment in chain:
        outputs.append(segment(outputs[-1]))
    places: dict[Depth, _Place] = {}
    for depth, prefix in prefixes.items():
        wanted = prefix(images)
        counts = (count for count, output in enumerate(outputs) if _is_near(output, wanted))
        found = next(counts, None)
        places[depth] = _Place([prefix], 1) if found is None else _Place(chain, found)
    return places


def _cut(group: Sequence[Member], depths: Sequence[Depth]) -> list[nn.Module]:
    """Cut the network at these depths, taking the frozen layers of the member with the longest prefix."""
    if not depths:
        return []
    longest = max(
        (member.classifier for member in group if member.classifier.depth in depths),
        key=lambda classifier: len(list(classifier.prefix.modules())),
    )
    try:
        return [part.eval() for _, part in cut_at_all(longest.backbone, depths)]
    except UNTRACEABLE:
        return []


def _is_near(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= NEAR * wanted.abs().max())


def merge_linear(tails: Sequence[tuple[Tail, float]]) -> list[tuple[Tail, float]]:
    """Merge the linear heads among tails at one point of a branch, given with their shares, to one.

    A weighted mean of linear layers is a linear layer; a batch norm before it is one too.
    """
    found = [
        (tail, share, as_linear(tail.head) if isinstance(tail.suffix, nn.Identity) else None)
        for tail, share in tails
    ]
    linear = [(tail, share, layer) for tail, share, layer in found if layer is not None]
    if len(linear) < 2:
        return list(tails)
    weight = torch.stack([share * weight for _, share, (weight, _) in linear]).sum(dim=0)
    bias = torch.stack([share * bias for _, share, (_, bias) in linear]).sum(dim=0)
    merged = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        merged.weight.copy_(weight)
        merged.bias.copy_(bias)
    head = nn.Sequential(nn.Flatten(), merged)
    others = [(tail, share) for tail, share, layer in found if layer is None]
    return [(Tail(linear[0][0].ref, nn.Identity(), head), 1.0), *others]


@torch.no_grad()
def fold_norms(branches: Iterable[Branch], *, image_size: int) -> None:
    """Fold batch norms into the convolutions before them, which halves a program's operations.

    Parts that several branches share stay shared.
    """
    known: dict[nn.Module, nn.Module] = {}
    images = probe_images(torch.empty(0, 3, image_size, image_size))

    def fold_once(part: nn.Module, inputs: Tensor) -> nn.Module:
        if part not in known:
            known[part] = folded(part, inputs)
        return known[part]

    for branch in branches:
        state = branch.normalise(images)
        for place, tails in enumerate(branch.points):
            for tail in tails:
                tail.suffix = fold_once(tail.suffix, state)
            if place < len(branch.segments):
                branch.segments[place] = fold_once(branch.segments[place], state)
                state = branch.segments[place](state)


@torch.no_grad()
def as_linear(head: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Weight and bias, float64, of a head that is a linear layer in eval mode, perhaps with batch norm."""
    layers = [layer for layer in head.modules() if not list(layer.children())]
    rest = [layer for layer in layers if not isinstance(layer, nn.Flatten | nn.Dropout | nn.Identity)]
    if not rest or not isinstance(rest[-1], nn.Linear):
        return None
    weight, bias = rest[-1].weight.double(), rest[-1].bias.double()
    if len(rest) == 1:
        return weight, bias
    norm = rest[0]
    if len(rest) > 2 or not isinstance(norm, nn.BatchNorm1d):
        return None
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    return weight * scale, bias + weight @ shift
