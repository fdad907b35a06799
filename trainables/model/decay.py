"""Which parameters of a backbone weight decay must leave alone."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from typing import Any

from torch import nn


def undecayed_names(backbone: nn.Module) -> frozenset[str]:
    """The parameters that are not decayed, by name.

    These are biases, norms and layer scales, of one dimension; what a model of timm lists itself, such
    as tables of relative positions and the layers that compute them; and whatever is not the weight of a
    layer: position embeddings, class tokens, temperatures.
    """
    listed = _listed_by_model(backbone)
    return frozenset(
        name
        for name, parameter in backbone.named_parameters()
        if parameter.dim() <= 1
        or not name.endswith("weight")
        or any(fnmatch(name, pattern) for pattern in listed)
    )


def _listed_by_model(backbone: Any) -> Collection[str]:
    """Names, some of them patterns; timm's other models have no such list."""
    ask = getattr(backbone, "no_weight_decay", None)
    names: Collection[str] = ask() if ask is not None else ()
    return names
