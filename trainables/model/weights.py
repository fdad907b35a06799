"""Finds the pretrained weights of a backbone before the search starts, and loads them into it."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from contract.weights_source import WeightsSource
from trainables.model.backbones import BACKBONES, Backbone, find_backbone
from trainables.model.downloads import (
    NotOffered,
    download,
    download_file,
    downloaded_file,
    find_cached,
    find_file,
    find_newest,
    is_offered,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

AUTO = "auto"
RANDOM = "random"
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# What timm's model files call the function that renames and resamples a published checkpoint.
_FILTER_NAMES = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


def random_weights(backbone: Backbone, seed: int) -> WeightsSource:
    """Source of untrained weights, drawn from the seed."""
    identity = f"random:{backbone.key}:{seed}"
    return WeightsSource(kind="random", backbone=backbone.name, location="", seed=seed, identity=identity)


def locate_weights(
    backbone: Backbone, weights: str | Path, *, seed: int = 0, recorded: WeightsSource | None = None
) -> WeightsSource:
    """Find the weights without downloading them; a backbone without pretrained ones gets random ones.

    Args:
        weights: "auto" (packaged, else in the hub's local cache, else on the hub), "random", a file, or a
            folder of files named after the backbones.
        recorded: source that an earlier run of the study used; "auto" takes it again, even if it is outdated.

    Raises:
        ValueError: there are none; the message says what to pass instead.
    """
    if weights == RANDOM or not backbone.pretrained:
        return random_weights(backbone, seed)
    if weights != AUTO:
        return _file_source(backbone, _find_file(backbone, Path(weights).expanduser().absolute()))
    if recorded is not None and recorded.kind in ("package", "hub", "url"):
        return recorded
    if backbone.weights_url:
        return _url_source(backbone)
    return _packaged(backbone) or _on_hub(backbone)


def choose_weights(
    backbone: Backbone, sources: Sequence[WeightsSource], weights: str, *, seed: int, pretrained: bool
) -> WeightsSource:
    """Pick the backbone's source among the study's; nothing is searched for.

    Where the study or the regime (`pretrained` false) wants untrained weights, they are drawn from the seed.

    Raises:
        ValueError: the study has none for it.
    """
    if weights == RANDOM or not pretrained or not backbone.pretrained:
        return random_weights(backbone, seed)
    for source in sources:
        if source.backbone == backbone.name:
            return source
    known = ", ".join(source.backbone for source in sources) or "none"
    raise ValueError(f"the study has weights of {known}, but not of {backbone.name}: add it to --backbones")


def fetch_weights(source: WeightsSource) -> WeightsSource:
    """Download the file if this machine lacks it; returns the source with the file's digest.

    Raises:
        ValueError: it is damaged, or not the one that the source names.
        OSError: the download failed.
    """
    if source.kind == "random":
        return source
    return replace(source, digest=_file_digest(_local_path(source)))


def is_here(source: WeightsSource) -> bool:
    """Whether the file is on this machine, so that `fetch_weights` need not download it."""
    return source.kind in ("random", "file", "package") or _find_downloaded(source) is not None


def _file_digest(path: Path) -> str:
    status = path.stat()
    return _digest((path, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _digest(state: tuple[Path, int, int]) -> str:
    """The sha256 of a file of this size and time, computed once a process.

    At 1.7 GB/s that is 0.06 s for a ResNet-50 and 0.6 s for the largest row, so it is not written down.
    """
    with state[0].open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_source(backbone: Backbone, path: Path) -> WeightsSource:
    digest = _file_digest(path)
    return WeightsSource(
        kind="file",
        backbone=backbone.name,
        location=str(path),
        digest=digest,
        identity=f"file:{backbone.key}:{digest[:16]}",
    )


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
    digest = _file_digest(path)
    return WeightsSource(
        kind="package",
        backbone=backbone.name,
        location=backbone.package,
        digest=digest,
        identity=f"package:{backbone.timm_name}:{digest[:16]}",
    )


def _on_hub(backbone: Backbone) -> WeightsSource:
    """Source in the hub's cache on this machine, else on the hub."""
    repository = backbone.repository
    found = find_cached(repository)
    if found is None:
        try:
            found = find_newest(repository)
        except NotOffered as error:
            raise _no_weights(backbone, str(error)) from error
    return WeightsSource(
        kind="hub",
        backbone=backbone.name,
        location=repository,
        revision=found.revision,
        file=found.name,
        digest=found.digest,
        identity=f"hub:{repository}@{found.revision}",
    )


def _no_weights(backbone: Backbone, why: str) -> ValueError:
    packaged = ", ".join(row.name for row in BACKBONES.values() if row.package)
    return ValueError(
        f"no weights of {backbone.name} on this machine, and {why}: pass "
        f"--backbones with one whose weights are installed ({packaged}), --weights random, or --weights PATH "
        f"(a file, or a folder with {backbone.name}.pth or {backbone.name}.safetensors)"
    )


def _url_source(backbone: Backbone) -> WeightsSource:
    url = backbone.weights_url
    if not downloaded_file(url).is_file() and not is_offered(url):
        raise _no_weights(backbone, f"{url} does not answer")
    identity = f"url:{backbone.key}:{url.rpartition('/')[2]}"  # the name holds the file's hash
    return WeightsSource(kind="url", backbone=backbone.name, location=url, identity=identity)


def find_licence(source: WeightsSource) -> str:
    """Find the licence of pretrained weights as timm's table has it; in words where it has none."""
    if source.kind == "random":
        return "none needed: no pretrained weights"
    row = find_backbone(source.backbone)
    if source.kind == "file" or not row.timm_name:
        return "unknown"
    import timm

    configuration = timm.get_pretrained_cfg(row.timm_name, allow_unregistered=True)
    return str(getattr(configuration, "license", None) or "unknown")


def load_weights(module: nn.Module, source: WeightsSource) -> None:
    """Load weights into a backbone from `make_backbone`, without the file's classifier.

    Raises:
        ValueError: tensors are missing, unknown or of another shape (the message names them), or the file is
            not the source's.
        OSError: this node lacks the file, and the download failed.
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
    """Path of the source's file on this machine, downloaded if need be and checked by its digest."""
    path = _find_downloaded(source) or _download(source)
    found = _file_digest(path)
    if source.digest and found != source.digest:
        raise ValueError(
            f"{path} is not the weights of {source.backbone} that the study uses (sha256 {found[:12]}, "
            f"not {source.digest[:12]}): {_way_out(source, path)}"
        )
    return path


def _way_out(source: WeightsSource, path: Path) -> str:
    if source.kind == "package":
        return f"install the version of {source.location} that the study began with, or start another --study"
    if source.kind == "file":
        return "put the file back on every node, or start another --study"
    return f"it is damaged or was replaced; delete {path.resolve()}, and the next run downloads it again"


def _find_downloaded(source: WeightsSource) -> Path | None:
    """Path of the source's file if it is on this machine.

    Raises:
        ValueError: it is of a kind that cannot be downloaded, and not here.
    """
    if source.kind == "hub":
        return find_file(source.location, source.file, source.revision)
    if source.kind == "url":
        path = downloaded_file(source.location)
        return path if path.is_file() else None
    found = Path(source.location) if source.kind == "file" else _packaged_file(source.location)
    if found is None or not found.is_file():
        what = "the package" if source.kind == "package" else "the file"
        raise ValueError(
            f"{what} {source.location} with the weights of {source.backbone} is not on this machine"
        )
    return found


def _download(source: WeightsSource) -> Path:
    if source.kind == "url":
        return download(source.location)
    return download_file(source.location, source.file, source.revision)


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
    """Rename tensors by order, since packaged files have other names; the classifier's two come last."""
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
