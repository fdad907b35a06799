"""What all trials of a study share, as it travels to the workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trainables.model.weights import WeightsSource


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What all trials of a study share. Travels to the workers as plain values: `asdict` and back."""

    study_directory: str
    """Absolute. Holds data.csv; every trial writes below its trials/<n>/."""

    classes: tuple[str, ...]
    weights: str
    """auto, random, or a file or folder."""

    image_size: int
    """Side of the square the network sees, in pixels."""

    seed: int
    metric: str
    maximize: bool
    cache_directory: str
    """Absolute. Image store and activation cache, shared by all studies."""

    cache_gigabytes: float
    num_trials: int
    """Of the study: how many may share an activation."""

    threads: int
    """CPU threads of one trial's process."""

    use_gpu: bool
    backbone_weights: tuple[WeightsSource, ...] = ()
    """Those of all backbones, located by the driver: workers and the export use exactly them."""

    data_source: str = ""
    """URL of the bucket whose copies data.csv lists; each node makes its own. Empty: no bucket."""

    workers: int = 1
    """Processes that train one trial together."""

    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    shared_depths: tuple[int | str, ...] = ()
    """Unfreeze depths of the study's trials; the activations of all are computed in one pass."""

    agreement: float = 0.125
    """The chance that two trials read the same activations."""

    activation_dtype: Literal["auto", "float16", "float32"] = "auto"
    """What the frozen part's output is rounded to, cached or not; auto = by its size."""

    compile: bool = False
    """Put what trains through torch.compile."""

    max_params: int | None = None
    """A larger classifier is infeasible."""

    max_latency_ms: float | None = None
    """One that takes longer for an image is infeasible."""


def make_study_settings(values: Mapping[str, Any]) -> StudySettings:
    """From plain values, whose tuples may have become lists on the way to a worker."""
    frozen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    sources = tuple(
        source if isinstance(source, WeightsSource) else WeightsSource(**source)
        for source in frozen.pop("backbone_weights", ())
    )
    return StudySettings(**frozen, backbone_weights=sources)
