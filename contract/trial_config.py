"""TrialConfig: every hyperparameter of a trial, its default and its check."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

OPTIMIZERS = ("adamw", "sgd", "rmsprop", "adam")
SCHEDULES = ("cosine", "exponential", "plateau", "constant", "hyperrule")
ALL = "all"

_POSITIVE = (
    "max_epochs",
    "batch_size",
    "learning_rate",
    "backbone_learning_rate_factor",
    "layer_decay",
    "second_phase_learning_rate_factor",
    "gradual_epochs",
    "num_neighbours",
    "mix_alpha",
)
_NOT_NEGATIVE = (
    "weight_decay",
    "head_l2",
    "warmup_epochs",
    "frozen_epochs",
    "steps_per_epoch",
    "validation_images",
    "mixup_alpha",
    "gradient_clip",
    "early_stopping_patience",
)
_SHARES = ("dropout", "momentum", "label_smoothing", "ema_decay")
_CHOICES = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "head_pooling": ("average", "flatten"),
    "class_weights": ("none", "balanced", "effective"),
    "sampler": ("shuffle", "balanced"),
    "mix": ("none", "mixup", "cutmix"),
    "distance": ("cosine", "euclidean"),
}
_NAMED_DEPTH = re.compile(r"all|layers:[1-9]\d*|from:.+")
_WIDTHS = re.compile(r"[1-9]\d*(-[1-9]\d*)*")


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """What a search space proposes and a trial runs."""

    backbone: str
    """A row of the backbone table, or any timm model name."""

    regime: str = "finetune"
    """Which parameters train, and when: a file of trainables/training/regimes."""

    unfreeze_depth: int | str = 1
    """Backbone stages that train, counted from the top: 0 = head only, "all" = the whole network.

    Or "layers:60", the last 60 layers with parameters, or "from:blocks.4", that module and all above it.
    """

    max_epochs: int = 10
    """Most epochs this trial runs: its full budget."""

    batch_size: int = 32
    """Images an optimizer step averages over, all workers together."""

    micro_batch_size: int | None = None
    """Images sent through the network at once, None = the whole batch; halved where memory runs out.

    An update averages over the batch all the same, but batch norm normalises over the images of one pass:
    with `frozen_batch_norm`, or a network without it, the size changes nothing.
    """

    learning_rate: float = 1e-3
    """Peak value, reached at the end of warm-up."""

    backbone_learning_rate_factor: float = 1.0
    """The backbone's learning rate as a share of the head's."""

    layer_decay: float = 1.0
    """Learning-rate factor from each stage to the one below it, the head being the top."""

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

    gradual_epochs: int = 1
    """gradual only: epochs between unfreezing one stage and the next."""

    num_neighbours: int = 5
    """knn only."""

    distance: Literal["cosine", "euclidean"] = "cosine"
    """knn only: what makes two images neighbours."""

    head_pooling: Literal["average", "flatten"] = "average"
    """How the backbone's last maps become features: its own pooling, or every value of every map."""

    head_width: int | str = 0
    """Units of the head's hidden layer; 0 = a linear head; "512-128" = two hidden layers."""

    head_batch_norm: bool = False
    """Batch norm of the features that enter the head."""

    head_l2: float = 0.0
    """L2 penalty, this times the sum of squares, on the weights of the head's dense layers."""

    dropout: float = 0.0
    """Share of features dropped behind every hidden layer, or before the only layer."""

    zero_init_head: bool = False
    """Start the last linear layer at zero, as BiT does."""

    policy: str = "none"
    """Named augmentation policy: a row of trainables/data/policies.py."""

    mixup_alpha: float = 0.0
    """MixUp's Beta parameter; one lambda an update, as HyperRule has it. 0 = off."""

    mix: Literal["none", "mixup", "cutmix"] = "none"
    """Mixed views: partner, share and soft label belong to the image, so that trials see the same ones."""

    mix_alpha: float = 1.0
    """Beta parameter of a mixed view's share."""

    mix_share: float = 1.0
    """Share of the images that are mixed."""

    cutmix_min: float = 0.0
    """Smallest side of CutMix' patch, as a share of the image's."""

    cutmix_max: float = 1.0
    """Largest side of CutMix' patch, as a share of the image's."""

    class_weights: Literal["none", "balanced", "effective"] = "none"
    """What an image counts in the loss: the same, by its class' rarity, or by the effective number."""

    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """Every image once an epoch, or every class equally often."""

    minority_policy: str = ""
    """Smaller classes are over-sampled to the largest one, copies augmented by this policy first."""

    zero_inputs: bool = False
    """Blank images: the baseline that any pipeline must beat."""

    steps_per_epoch: int = 0
    """Most updates in an epoch; 0 = all images."""

    validation_images: int = 0
    """Validation images that are looked at, the same ones in every epoch and trial; 0 = all of them.

    A study has one number: trials that were validated on different images cannot be ranked.
    """

    ema_decay: float = 0.0
    """Validate and keep a moving average of the weights, with this decay an update; 0 = the weights."""

    label_smoothing: float = 0.0
    frozen_batch_norm: bool = False
    """The backbone's batch norms keep the statistics they come with; their weights train."""

    gradient_clip: float = 0.0
    """Largest gradient norm; 0 = no clipping."""

    early_stopping_patience: int = 0
    """Epochs of the last phase without a lower validation loss after which the trial completes; 0 = never."""

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
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        depth = self.unfreeze_depth
        if not (depth >= 0 if isinstance(depth, int) else _NAMED_DEPTH.fullmatch(depth)):
            raise ValueError(
                f'unfreeze_depth must be a count of stages, "all", "layers:N" or "from:MODULE", got {depth!r}'
            )
        hidden_widths(self.head_width)
        self._check_mixing_and_balance()
        if self.micro_batch_size is not None and not 0 < self.micro_batch_size <= self.batch_size:
            raise ValueError(f"micro_batch_size must be in 1..batch_size, got {self.micro_batch_size}")

    def _check_mixing_and_balance(self) -> None:
        if not 0 <= self.mix_share <= 1:
            raise ValueError(f"mix_share must be in [0, 1], got {self.mix_share}")
        if not 0 <= self.cutmix_min <= self.cutmix_max <= 1:
            raise ValueError(
                f"0 <= cutmix_min <= cutmix_max <= 1 must hold, got {self.cutmix_min} and {self.cutmix_max}"
            )
        if self.mix != "none" and self.mixup_alpha > 0:
            raise ValueError(f"mix={self.mix!r} and mixup_alpha={self.mixup_alpha} mix twice: choose one")
        answers = (self.class_weights != "none", self.sampler == "balanced", bool(self.minority_policy))
        if sum(answers) > 1:
            raise ValueError("class_weights, sampler and minority_policy each make classes equal: choose one")


ACTIVATION_FIELDS = (
    "backbone",
    "head_pooling",
    "unfreeze_depth",
    "policy",
    "minority_policy",
    "mix",
    "mix_alpha",
    "mix_share",
    "cutmix_min",
    "cutmix_max",
    "zero_inputs",
)
"""Of `TrialConfig`: what decides which activations a trial reads."""


def hidden_widths(head_width: int | str) -> tuple[int, ...]:
    """The units of each hidden layer of a head, the first one first.

    Raises:
        ValueError: neither a count nor counts joined by hyphens.
    """
    if head_width == 0:
        return ()
    if not _WIDTHS.fullmatch(str(head_width)):
        raise ValueError(f'head_width must be 0, a width, or widths like "512-128", got {head_width!r}')
    return tuple(int(width) for width in str(head_width).split("-"))


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


def check_validated_alike(configs: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a study whose trials would be ranked on different validation images.

    Raises:
        ValueError: the configurations have several values of `validation_images`.
    """
    counts = sorted({int(config.get("validation_images", 0)) for config in configs})
    if len(counts) > 1:
        found = ", ".join(map(str, counts))
        raise ValueError(
            f"trials would be ranked on different validation images: validation_images is {found}; "
            "let the search space return one number instead of suggesting it"
        )


def config_as_dict(config: TrialConfig) -> dict[str, Any]:
    """The configuration as plain values, the way it is stored in the study database."""
    return asdict(config)
