"""TrialConfig: every hyperparameter of a trial, its default and its check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

OPTIMIZERS = ("adamw", "sgd", "rmsprop", "adam")
SCHEDULES = ("cosine", "exponential", "plateau", "constant", "hyperrule")
ALL = "all"

_POSITIVE = (
    "epochs",
    "batch_size",
    "learning_rate",
    "backbone_learning_rate_factor",
    "second_phase_learning_rate_factor",
)
_NOT_NEGATIVE = (
    "weight_decay",
    "warmup_epochs",
    "frozen_epochs",
    "head_width",
    "mixup_alpha",
    "gradient_clip",
    "early_stopping_patience",
)
_SHARES = ("dropout", "momentum", "label_smoothing")


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """What a search space proposes and a trial runs."""

    backbone: str
    """A row of the backbone table, or any timm model name."""

    regime: str = "finetune"
    """Which parameters train, and when: a file of trainables/training/regimes."""

    unfreeze_depth: int | Literal["all"] = 1
    """Backbone stages that train, counted from the top: 0 = head only, "all" = the whole network."""

    epochs: int = 10
    """Most epochs this trial runs: its full budget."""

    batch_size: int = 32
    """Images an optimizer step averages over, all workers together."""

    micro_batch_size: int | None = None
    """Images sent through the network at once; None = the whole batch. An update averages over the batch."""

    learning_rate: float = 1e-3
    """Peak value, reached at the end of warm-up."""

    backbone_learning_rate_factor: float = 1.0
    """The backbone's learning rate as a share of the head's."""

    optimizer: str = "adamw"
    momentum: float = 0.9
    """SGD and RMSprop only."""

    nesterov: bool = False
    """SGD only."""

    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from 0; fractions are allowed. HyperRule brings its own."""

    frozen_epochs: int = 1
    """two_phase only: epochs of the head alone before the backbone unfreezes."""

    second_phase_learning_rate_factor: float = 0.1
    """two_phase only: the second phase's peak learning rate as a share of the first's."""

    head_width: int = 0
    """Units of the head's hidden layer; 0 = a linear head."""

    head_batch_norm: bool = False
    dropout: float = 0.0
    """Share of features dropped before the last linear layer."""

    zero_init_head: bool = False
    """Start the last linear layer at zero, as BiT does."""

    policy: str = "none"
    """Named augmentation policy: a row of trainables/data/policies.py."""

    mixup_alpha: float = 0.0
    """MixUp's Beta parameter; one lambda an update, as HyperRule has it. 0 = off."""

    label_smoothing: float = 0.0
    gradient_clip: float = 0.0
    """Largest gradient norm; 0 = no clipping."""

    early_stopping_patience: int = 0
    """Epochs without a lower validation loss after which the trial completes; 0 = never."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if self.unfreeze_depth != ALL and (
            not isinstance(self.unfreeze_depth, int) or self.unfreeze_depth < 0
        ):
            raise ValueError(
                f'unfreeze_depth must be a count of stages or "all", got {self.unfreeze_depth!r}'
            )
        if self.micro_batch_size is not None and not 0 < self.micro_batch_size <= self.batch_size:
            raise ValueError(f"micro_batch_size must be in 1..batch_size, got {self.micro_batch_size}")


def make_trial_config(proposal: Mapping[str, Any]) -> TrialConfig:
    """Check a proposal of a search space.

    Raises:
        ValueError: a name that is no hyperparameter, or a value out of its range.
    """
    known = {field.name for field in fields(TrialConfig)}
    unknown = sorted(set(proposal) - known)
    if unknown:
        raise ValueError(
            f"no such hyperparameter: {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    return TrialConfig(**proposal)


def config_as_dict(config: TrialConfig) -> dict[str, Any]:
    """The configuration as plain values, the way it is stored in the study database."""
    return asdict(config)


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
    workers: int = 1
    """Processes that train one trial together."""

    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
