"""What the trials of one process share: images and labels, the activation cache, and pretrained backbones."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from contract.decoding import DeepRange, Fit
from contract.messages import StudySettings
from contract.study_layout import CachePaths, StudyPaths
from contract.weights_source import WeightsSource
from trainables.activations.cache import ActivationCache
from trainables.activations.cost_model import CostModel
from trainables.data.datasets import copy_missing
from trainables.data.manifest import read_manifest
from trainables.data.synthetic import read_synthetic
from trainables.data.views import storage_size
from trainables.device.accelerator import GIGABYTE
from trainables.device.memory import register_reserve
from trainables.images.cache_room import room_for
from trainables.images.split_view import SplitView, view_id
from trainables.images.store import ImageStore, open_or_build
from trainables.model.backbones import Backbone
from trainables.model.cpu.gradients import keep_gradient_layout, quicken_depthwise
from trainables.model.frozen_prefixes import FrozenPrefixes, make_frozen_prefixes
from trainables.model.networks import Pooling, make_backbone
from trainables.model.stages import Depth
from trainables.model.weights import load_weights

KEPT = 4
"""Most backbones in memory at once; the one used longest ago goes first."""

_Key = tuple[str, int, Pooling]
_loaded: OrderedDict[_Key, nn.Module] = OrderedDict()
_in_use: WeakValueDictionary[_Key, nn.Module] = WeakValueDictionary()
"""Backbones that a trial still holds: one that was dropped here is found again, not loaded a second time."""
_frozen_prefixes: dict[tuple[_Key, tuple[Depth, ...]], FrozenPrefixes] = {}


@lru_cache(maxsize=4)
def load_splits(
    settings: StudySettings, fit: Fit, device: torch.device, names: tuple[str, ...] = ("train", "val")
) -> dict[str, SplitView]:
    """Load the splits "train" and "val", whose images alone a search may look at, or those that are named.

    On a node that has no image store yet, or no copies of a bucket's images, the first worker makes them and
    the others wait.
    """
    cache_dir = Path(settings.cache_directory)
    manifest = read_manifest(StudyPaths(Path(settings.study_directory)).manifest, settings.classes)
    if settings.data_source:
        copy_missing(
            settings.data_source,
            manifest.paths,
            cache_dir=cache_dir,
            room_for=partial(room_for, cache_dir=cache_dir, budget_gb=settings.cache_gigabytes),
        )
    store = _open_store(manifest.paths, settings, fit)
    return {name: _view(store, manifest.indices(name), manifest.labels, settings, device) for name in names}


@lru_cache(maxsize=4)
def load_synthetic(settings: StudySettings, fit: Fit, device: torch.device) -> SplitView:
    """Load the study's synthetic images, in the order in which a growing share takes them.

    Raises:
        ValueError: the study has none.
    """
    table = read_synthetic(settings.paths.synthetic)
    store = _open_store(table.paths, settings, fit)
    if store.digests != table.digests:
        raise ValueError(
            f"synthetic images of the study have changed since it began ({settings.paths.synthetic} "
            "lists them): put them back, or start another study with --study NAME"
        )
    return _view(store, np.arange(len(table.paths)), table.labels, settings, device)


def _open_store(paths: Sequence[Path], settings: StudySettings, fit: Fit) -> ImageStore:
    return open_or_build(
        paths,
        storage_size=storage_size(settings.image_size, fit),
        fit=fit,
        deep=DeepRange(*settings.deep_range),
        cache_dir=Path(settings.cache_directory),
        budget_gb=settings.cache_gigabytes,
    )


def _view(
    store: ImageStore,
    ids: NDArray[np.int64],
    labels: NDArray[np.int64],
    settings: StudySettings,
    device: torch.device,
) -> SplitView:
    """The images of a store with these ids; `labels` are those of all images, [N]."""
    digests = store.digests
    deep = [str(settings.deep_range)] if settings.deep_range else []  # other pixels of the same files
    content = hashlib.sha256("\n".join([*deep, *(digests[number] for number in ids)]).encode())
    view_ids = np.array([view_id(digests[number]) for number in ids], dtype=np.int64)
    return SplitView(
        store=store,
        ids=ids,
        labels=torch.from_numpy(labels[ids]).to(device),
        num_classes=len(settings.classes),
        view_ids=view_ids,
        copies=np.zeros_like(view_ids),
        digest=content.hexdigest(),
    )


@lru_cache(maxsize=1)
def open_cache(directory: str, gigabytes: float) -> ActivationCache | None:
    """Open this machine's activation cache; None if its budget is 0."""
    if gigabytes <= 0:
        return None
    paths = CachePaths(Path(directory))
    return ActivationCache(
        paths.activations, budget_bytes=int(gigabytes * GIGABYTE), cache_dir=paths.directory
    )


@lru_cache(maxsize=1)
def open_cost_model(directory: str) -> CostModel:
    return CostModel(CachePaths(Path(directory)).activations)


def borrow_backbone(
    backbone: Backbone,
    *,
    weights: WeightsSource,
    depth: Depth,
    image_size: int,
    device: torch.device,
    pooling: Pooling = "average",
) -> nn.Module:
    """Backbone with its weights, on the device: the shared one where nothing of it trains, else a copy."""
    shared = _loaded[_load(backbone, weights, image_size, device, pooling)]
    return shared if depth == 0 else copy.deepcopy(shared)


def borrow_frozen_prefixes(
    backbone: Backbone,
    *,
    weights: WeightsSource,
    depths: tuple[Depth, ...],
    image_size: int,
    device: torch.device,
    pooling: Pooling = "average",
) -> FrozenPrefixes:
    """Frozen prefixes of these depths in the shared backbone, whose weights are those of every trial."""
    key = _load(backbone, weights, image_size, device, pooling)
    if (key, depths) not in _frozen_prefixes:
        _frozen_prefixes[key, depths] = make_frozen_prefixes(_loaded[key], depths, image_size=image_size)
    return _frozen_prefixes[key, depths]


def drop_backbones() -> bool:
    """Drop all backbones, so that only those in use take memory; false if there was none."""
    had_some = bool(_loaded)
    _loaded.clear()
    _frozen_prefixes.clear()
    return had_some


register_reserve(drop_backbones)


def _load(
    backbone: Backbone, weights: WeightsSource, image_size: int, device: torch.device, pooling: Pooling
) -> _Key:
    key = (f"{backbone.key} {weights.identity} {device}", image_size, pooling)
    if key not in _loaded and (held := _in_use.get(key)) is not None:
        _loaded[key] = held
    if key not in _loaded:
        module = make_backbone(backbone, image_size=image_size, pooling=pooling)
        load_weights(module, weights)
        if device.type == "cpu":
            quicken_depthwise(module)
            keep_gradient_layout(module)
        module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        _loaded[key] = _in_use[key] = module.to(device)
    _loaded.move_to_end(key)
    while len(_loaded) > KEPT:
        dropped, _ = _loaded.popitem(last=False)
        for cuts in [cuts for cuts in _frozen_prefixes if cuts[0] == dropped]:
            del _frozen_prefixes[cuts]
    return key
