"""Where the pretrained weights of a backbone are, found before the search starts, and how they are loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from trainables.model.backbones import BACKBONES, Backbone, find_backbone
from trainables.model.downloads import ask, downloaded_file

if TYPE_CHECKING:
    from torch import Tensor, nn

AUTO = "auto"
RANDOM = "random"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# What timm's model files call the function that renames and resamples a published checkpoint.
_FILTER_NAMES = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """Where the weights come from: plain values that travel to the workers."""

    kind: Literal["package", "file", "hub", "url", "random"]
    backbone: str
    """A row of the table, or a timm name."""

    location: str
    """A package, a path, a hub repository, a URL; empty for random weights."""

    revision: str = ""
    """Hub only: the commit."""

    seed: int = 0
    """Random weights only."""

    identity: str
    """The same exactly for the same numbers: a key of caches."""


def random_weights(backbone: Backbone, seed: int) -> WeightsSource:
    """Untrained weights, drawn from the seed."""
    identity = f"random:{backbone.key}:{seed}"
    return WeightsSource(kind="random", backbone=backbone.name, location="", seed=seed, identity=identity)


def locate_weights(backbone: Backbone, weights: str | Path, *, seed: int = 0) -> WeightsSource:
    """Find the weights without loading them; a network of our own has none and gets random ones.

    Args:
        weights: "auto" (packaged, else in the hub's local cache, else on the hub), "random", a file, or a
            folder of files named after the backbones.

    Raises:
        ValueError: there are none; the message says what to pass instead.
    """
    if weights == RANDOM or not backbone.pretrained:
        return random_weights(backbone, seed)
    if weights != AUTO:
        return _file_source(backbone, _find_file(backbone, Path(weights).expanduser().absolute()))
    if backbone.weights_url:
        return _url_source(backbone)
    return _packaged(backbone) or _cached(backbone) or _on_hub(backbone)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _file_source(backbone: Backbone, path: Path) -> WeightsSource:
    identity = f"file:{backbone.key}:{_digest(path)}"
    return WeightsSource(kind="file", backbone=backbone.name, location=str(path), identity=identity)


def _find_file(backbone: Backbone, path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f'no weights at {path}: pass a file, a folder, "auto" or "random"')
    timm_name = backbone.timm_name or backbone.own
    stems = (backbone.name, timm_name, timm_name.split(".")[0])
    for candidate in (path / f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES):
        if candidate.is_file():
            return candidate
    raise ValueError(
        f"{path} has no weights of {backbone.name}: expected {stems[0]}.pth or {stems[0]}.safetensors"
    )


def _packaged_file(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((file for folder in folders for file in sorted(Path(folder).glob("models/*.pth"))), None)


def _packaged(backbone: Backbone) -> WeightsSource | None:
    path = _packaged_file(backbone.package) if backbone.package else None
    if path is None or backbone.package is None:
        return None
    identity = f"package:{backbone.timm_name}:{_digest(path)}"
    return WeightsSource(kind="package", backbone=backbone.name, location=backbone.package, identity=identity)


def _hub_source(backbone: Backbone, revision: str) -> WeightsSource:
    repository = f"timm/{backbone.timm_name}"
    return WeightsSource(
        kind="hub",
        backbone=backbone.name,
        location=repository,
        revision=revision,
        identity=f"hub:{repository}@{revision}",
    )


def _cached(backbone: Backbone) -> WeightsSource | None:
    from huggingface_hub import try_to_load_from_cache

    for name in _HUB_FILES:
        path = try_to_load_from_cache(f"timm/{backbone.timm_name}", name)
        if isinstance(path, str):
            return _hub_source(backbone, Path(path).parent.name)  # .../snapshots/<revision>/<name>
    return None


def _on_hub(backbone: Backbone) -> WeightsSource:
    from huggingface_hub import constants

    revision = None if constants.HF_HUB_OFFLINE else _hub_revision(constants.ENDPOINT, backbone)
    if revision is not None:
        return _hub_source(backbone, revision)
    raise _no_weights(backbone, constants.ENDPOINT)


def _no_weights(backbone: Backbone, place: str) -> ValueError:
    packaged = ", ".join(row.name for row in BACKBONES.values() if row.package)
    return ValueError(
        f"no weights of {backbone.name} on this machine, and {place} does not offer them: pass "
        f"--backbones with one whose weights are installed ({packaged}), --weights random, or --weights PATH "
        f"(a file, or a folder with {backbone.name}.pth or {backbone.name}.safetensors)"
    )


def _hub_revision(endpoint: str, backbone: Backbone) -> str | None:
    """The newest commit, or None where the hub does not answer in time."""
    content = ask(f"{endpoint}/api/models/timm/{backbone.timm_name}")
    try:
        return str(json.loads(content)["sha"]) if content else None
    except (ValueError, KeyError):
        return None


def _url_source(backbone: Backbone) -> WeightsSource:
    url = backbone.weights_url
    if not downloaded_file(url).is_file() and ask(url, method="HEAD") is None:
        raise _no_weights(backbone, url)
    identity = f"url:{backbone.key}:{url.rpartition('/')[2]}"  # the name holds the file's hash
    return WeightsSource(kind="url", backbone=backbone.name, location=url, identity=identity)


def load_weights(module: nn.Module, source: WeightsSource) -> None:
    """Fill a backbone that `make_backbone` built; the file's own classifier is left out.

    Raises:
        ValueError: tensors are missing, left over or of another shape; the message names them.
    """
    if source.kind == "random":
        from trainables.model.networks import make_backbone

        size, pooling = cast("Any", module.built_for)
        row = find_backbone(source.backbone)
        fresh = make_backbone(row, image_size=size, pooling=pooling, seed=source.seed)
        module.load_state_dict(fresh.state_dict())
        return
    path = _local_path(source)
    state = _read_state(path)
    if source.kind == "package":
        state = _by_position(module, state)
    else:
        state = _by_name(module, state, without=find_backbone(source.backbone).without)
    problems = _misfits(module, state)
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{path} does not fit {source.backbone}: {'; '.join(problems[:5])}{more}")
    module.load_state_dict(state, strict=False)


def _misfits(module: nn.Module, state: dict[str, Tensor]) -> list[str]:
    own = module.state_dict()
    # Buffers that follow from the shape (attention indices) need not be in the file.
    needed = {name for name, _ in module.named_parameters()} | {name for name in own if "running_" in name}
    missing = [f"{name} missing" for name in sorted(needed - set(state))]
    unknown = [f"{name} unknown" for name in sorted(set(state) - set(own))]
    return [
        *missing,
        *unknown,
        *(
            f"{name} is {list(tensor.shape)}, expected {list(own[name].shape)}"
            for name, tensor in state.items()
            if name in own and tensor.shape != own[name].shape
        ),
    ]


def _local_path(source: WeightsSource) -> Path:
    if source.kind == "file":
        return Path(source.location)
    if source.kind == "package":
        path = _packaged_file(source.location)
        if path is None:
            raise ValueError(f"the package {source.location} is not installed on this node")
        return path
    if source.kind == "url":
        from torch.hub import load_state_dict_from_url

        path = downloaded_file(source.location)
        if not path.is_file():
            load_state_dict_from_url(source.location, str(path.parent), progress=False, check_hash=True)
        return path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(source.location, _HUB_FILES[0], revision=source.revision))
    except EntryNotFoundError:
        return Path(hf_hub_download(source.location, _HUB_FILES[1], revision=source.revision))


def _read_state(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from timm.models import load_state_dict

    # Bytes that are no weights make torch's reader of its old format fail with any of these.
    unreadable = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError)
    try:
        state: dict[str, Tensor] = load_state_dict(str(path), weights_only=True)
    except (*unreadable, pickle.UnpicklingError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as weights: {error}") from error
    return state


def _by_position(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename by order: the packaged files name the same tensors otherwise. The classifier's two come last."""
    names = list(module.state_dict())
    if len(state) != len(names) + 2:
        raise ValueError(f"packaged weights hold {len(state)} tensors, expected {len(names) + 2}")
    return dict(zip(names, state.values(), strict=False))


def _by_name(module: Any, state: dict[str, Tensor], *, without: tuple[str, ...]) -> dict[str, Tensor]:
    source_file = sys.modules[type(module).__module__]
    adapt = next((getattr(source_file, name) for name in _FILTER_NAMES if hasattr(source_file, name)), None)
    if adapt is not None:
        takes_model = "model" in inspect.signature(adapt).parameters
        state = adapt(state, module) if takes_model else adapt(state)
    classifier = module.pretrained_cfg.get("classifier") or ()
    classifiers = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    dropped = tuple(f"{name}." for name in (*classifiers, *without)) + _AUXILIARY
    return {name: tensor for name, tensor in state.items() if not name.startswith(dropped)}
