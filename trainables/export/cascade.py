"""Cascade: the models of two studies as one program, the first for one class, the second for all others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from contract.model_layout import ModelPaths
from trainables.export.program import load_program

ALIKE = ("image_size", "fit", "storage_size", "deep_range")
"""What two models must agree on, since their images are made once."""


class CascadeClassifier(nn.Module):
    """Two models as one: images [N, 3, S, S] in [0, 1] -> probabilities of all classes [N, classes]."""

    def __init__(self, first: nn.Module, second: nn.Module, *, one: int, order: Sequence[int]) -> None:
        """Put them together.

        Args:
            first: gives probabilities [N, 2] of the one class and of the rest.
            second: gives probabilities [N, classes] of the rest's classes.
            one: position of the one class in the first's.
            order: where each class comes from: 0 is the first's, 1 + k is the second's k-th.
        """
        super().__init__()
        self.first, self.second, self.one = first, second, one
        self.order: Tensor
        self.register_buffer("order", torch.tensor(list(order), dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        own, others = self.first(images), self.second(images)
        rest = 1 - self.one
        parts = [own[:, self.one : self.one + 1], own[:, rest : rest + 1] * others]
        return torch.cat(parts, dim=1).index_select(1, self.order)


def load_cascade(
    first: ModelPaths, second: ModelPaths, *, one: int, order: Sequence[int]
) -> tuple[CascadeClassifier, dict[str, Any]]:
    """Load the models of two studies as one network, with all licences and what their cards agree on (ALIKE).

    Raises:
        ValueError: a model is missing or damaged, or they want different images.
    """
    cards = [_read_card(paths) for paths in (first, second)]
    for name in ALIKE:
        values = [card.get(name) for card in cards]
        if values[0] != values[1]:
            flag = {"image_size": "--image-size", "fit": "--fit"}.get(name, "--data")
            raise ValueError(
                f"the models of {first.directory} and {second.directory} want different images: {name} "
                f"{values[0]} and {values[1]}; search one of them again with the other's {flag}"
            )
    if len(cards[0]["classes"]) != 2 or sorted(order) != list(range(len(cards[1]["classes"]) + 1)):
        raise ValueError(
            f"the models of {first.directory} and {second.directory} have {len(cards[0]['classes'])} and "
            f"{len(cards[1]['classes'])} classes, which are not those of their studies: run finalize.py on "
            "each"
        )
    modules = [load_program(paths.program).module() for paths in (first, second)]
    shared = {name: cards[0].get(name) for name in ALIKE}
    shared["licences"] = {**cards[0].get("licences", {}), **cards[1].get("licences", {})}
    return CascadeClassifier(modules[0], modules[1], one=one, order=order), shared


def _read_card(paths: ModelPaths) -> Mapping[str, Any]:
    try:
        card: dict[str, Any] = json.loads(paths.card.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{paths.directory} holds no model: run finalize.py on its study first") from error
    return card
