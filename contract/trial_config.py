"""TrialConfig: every hyperparameter of a trial, with its default, its meaning and its check."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

KEPT_EPOCH: Literal["last", "lowest_loss", "best"] = "last"
"""What `kept_epoch = "auto"` stands for where a trial does not stop early."""

OPTIMIZERS = ("adamw", "sgd", "rmsprop", "adam")
SCHEDULES = ("cosine", "exponential", "plateau", "constant", "hyperrule")
ALL = "all"

_NAMED_DEPTH = re.compile(r"all|layers:[1-9]\d*|from:.+")
_WIDTHS = re.compile(r"[1-9]\d*(-[1-9]\d*)*")


@dataclass(frozen=True)
class Check:
    """Check of a hyperparameter; it stands in the annotation of its field."""

    holds: Callable[[Any], bool]
    claim: str
    """Text of the error after "NAME must "."""


def one_of(choices: tuple[str, ...]) -> Check:
    """The check of a hyperparameter with named values; a Literal is checked without it."""
    return Check(lambda value: value in choices, f"be one of {', '.join(choices)}")


def _is_depth(depth: int | str) -> bool:
    return depth >= 0 if isinstance(depth, int) else bool(_NAMED_DEPTH.fullmatch(depth))


def _is_width(width: int | str) -> bool:
    return width == 0 or bool(_WIDTHS.fullmatch(str(width)))


POSITIVE = Check(lambda value: value > 0, "be positive")
NOT_NEGATIVE = Check(lambda value: value >= 0, "not be negative")
BELOW_ONE = Check(lambda value: 0 <= value < 1, "be in [0, 1)")
UP_TO_ONE = Check(lambda value: 0 <= value <= 1, "be in [0, 1]")
DEPTH = Check(_is_depth, 'be a count of stages, "all", "layers:N" or "from:MODULE"')
WIDTH = Check(_is_width, 'be 0, a width, or widths like "512-128"')


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One configuration: a search space proposes it, and a trial runs it."""

    backbone: str
    """A row of the backbone table, or any timm model name."""

    regime: str = "finetune"
    """Which parameters train, and when: a file of trainables/training/regimes."""

    unfreeze_depth: Annotated[int | str, DEPTH] = 1
    """Backbone stages that train, counted from the top: 0 = head only, "all" = the whole network.

    "layers:60" stands for the last 60 layers with parameters, "from:blocks.4" for that module and all above.
    """

    max_epochs: Annotated[int, POSITIVE] = 10
    """Most epochs this trial runs: its full budget."""

    batch_size: Annotated[int, POSITIVE] = 32
    """Images an optimizer step averages over, all workers together."""

    micro_batch_size: int | None = None
    """Images sent through the network at once, None = the whole batch; halved where memory runs out.

    An update averages over the batch all the same, but batch norm normalises over the images of one pass:
    with `frozen_batch_norm`, or a network without it, the size changes nothing.
    """

    learning_rate: Annotated[float, POSITIVE] = 1e-3
    """Peak value, reached at the end of warm-up."""

    backbone_learning_rate_factor: Annotated[float, POSITIVE] = 1.0
    """The backbone's learning rate as a share of the head's."""

    layer_decay: Annotated[float, POSITIVE] = 1.0
    """Learning-rate factor from each stage to the one below it, the head being the top."""

    optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adamw"
    momentum: Annotated[float, BELOW_ONE] = 0.9
    """Momentum of SGD and RMSprop; AdamW and Adam ignore it."""

    nesterov: bool = False
    """Nesterov momentum, for SGD only."""

    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    schedule: Annotated[str, one_of(SCHEDULES)] = "cosine"
    warmup_epochs: Annotated[float, NOT_NEGATIVE] = 0.0
    """Epochs of linear warm-up from 0; fractions are allowed. HyperRule brings its own."""

    frozen_epochs: Annotated[int, NOT_NEGATIVE] = 1
    """Epochs of the head alone before the backbone unfreezes, for regime two_phase only."""

    second_phase_learning_rate_factor: Annotated[float, POSITIVE] = 0.1
    """The second phase's peak learning rate as a share of the first's, for regime two_phase only."""

    gradual_epochs: Annotated[int, POSITIVE] = 1
    """Epochs between unfreezing one stage and the next, for regime gradual only."""

    num_neighbours: Annotated[int, POSITIVE] = 5
    """Neighbours that vote, for regime knn only."""

    distance: Literal["cosine", "euclidean"] = "cosine"
    """Distance between features that makes images neighbours, for regime knn only."""

    head_pooling: Literal["average", "flatten"] = "average"
    """How the backbone's last maps become features: its own pooling, or every value of every map."""

    head_width: Annotated[int | str, WIDTH] = 0
    """Units of the head's hidden layer; 0 = a linear head; "512-128" = two hidden layers."""

    head_batch_norm: bool = False
    """Batch norm of the features that enter the head."""

    head_l2: Annotated[float, NOT_NEGATIVE] = 0.0
    """L2 penalty, this times the sum of squares, on the weights of the head's dense layers."""

    dropout: Annotated[float, BELOW_ONE] = 0.0
    """Share of features dropped behind every hidden layer, or before the only layer."""

    zero_init_head: bool = False
    """Start the last linear layer at zero, as BiT does."""

    initial_head: Literal["new", "probe"] = "new"
    """The head that a trial begins with: drawn at random, or trained on the frozen backbone like a probe.

    It then trains for `max_epochs` epochs on features of plain images before the trial's first epoch. Without
    effect at depth 0, where nothing is unfrozen.
    """

    policy: str = "none"
    """Named augmentation policy: a row of trainables/data/policies.py."""

    mixup_alpha: Annotated[float, NOT_NEGATIVE] = 0.0
    """MixUp's Beta parameter; one lambda an update, as HyperRule has it. 0 = off."""

    mix: Literal["none", "mixup", "cutmix"] = "none"
    """Mixed views: partner, share and soft label belong to the image, so that trials see the same ones."""

    mix_alpha: Annotated[float, POSITIVE] = 1.0
    """Beta parameter of a mixed view's share."""

    mix_share: Annotated[float, UP_TO_ONE] = 1.0
    """Share of the images that are mixed."""

    cutmix_min: float = 0.0
    """Smallest side of CutMix' patch, as a share of the image's."""

    cutmix_max: float = 1.0
    """Largest side of CutMix' patch, as a share of the image's."""

    mix_within_class: bool = False
    """Mix an image with one of its own class only, so that its label stays whole."""

    synthetic_share: Annotated[float, UP_TO_ONE] = 0.0
    """Share of each class's images in --synthetic that train as well, the first ones; 0 = none."""

    class_weights: Literal["none", "balanced", "effective"] = "none"
    """Weight of an image in the loss: equal, by its class's rarity, or by the class's effective number."""

    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """Every image once an epoch, or every class equally often."""

    minority_policy: str = ""
    """Smaller classes are over-sampled to the largest one, copies augmented by this policy first."""

    zero_inputs: bool = False
    """Train on blank images: the baseline that any pipeline must beat."""

    steps_per_epoch: Annotated[int, NOT_NEGATIVE] = 0
    """Most updates in an epoch; 0 = all images."""

    validation_images: Annotated[int, NOT_NEGATIVE] = 0
    """Validation images that are looked at, the same ones in every epoch and trial; 0 = all of them.

    A study has one value: trials that were validated on different images cannot be ranked.
    """

    ema_decay: Annotated[float, BELOW_ONE] = 0.0
    """Validate and keep a moving average of the weights, with this decay an update; 0 = the weights."""

    label_smoothing: Annotated[float, BELOW_ONE] = 0.0
    frozen_batch_norm: bool = False
    """The backbone's batch norms keep the statistics they come with; their weights train."""

    gradient_clip: Annotated[float, NOT_NEGATIVE] = 0.0
    """Largest gradient norm; 0 = no clipping."""

    early_stopping_patience: Annotated[int, NOT_NEGATIVE] = 0
    """Epochs of the last phase without a lower validation loss after which the trial completes; 0 = never."""

    kept_epoch: Literal["auto", "last", "lowest_loss", "best"] = "auto"
    """Epoch whose weights, predictions and metrics are the trial's: the last, or the best by loss or metric.

    "auto" is "best" for a trial that stops early, else the rule that the search was measured with.
    """

    def __post_init__(self) -> None:
        for name, check in _checks().items():
            value = getattr(self, name)
            if not check.holds(value):
                raise ValueError(f"{name} must {check.claim}, got {value!r}")
        if self.micro_batch_size is not None and not 0 < self.micro_batch_size <= self.batch_size:
            raise ValueError(f"micro_batch_size must be in 1..batch_size, got {self.micro_batch_size}")
        if not 0 <= self.cutmix_min <= self.cutmix_max <= 1:
            raise ValueError(
                f"0 <= cutmix_min <= cutmix_max <= 1 must hold, got {self.cutmix_min} and {self.cutmix_max}"
            )
        if self.mix != "none" and self.mixup_alpha > 0:
            raise ValueError(f"mix={self.mix!r} and mixup_alpha={self.mixup_alpha} mix twice: choose one")
        if self.initial_head == "probe" and (self.regime in NOTHING_FROZEN or self.head_pooling != "average"):
            raise ValueError(
                "initial_head='probe' needs a head on pooled features of a pretrained backbone, got "
                f"regime {self.regime} with head_pooling={self.head_pooling!r}: use initial_head='new'"
            )
        answers = (self.class_weights != "none", self.sampler == "balanced", bool(self.minority_policy))
        if sum(answers) > 1:
            raise ValueError("class_weights, sampler and minority_policy each make classes equal: choose one")


@cache
def _checks() -> dict[str, Check]:
    """The check in each field's annotation."""
    checks: dict[str, Check] = {}
    for name, hint in get_type_hints(TrialConfig, include_extras=True).items():
        if get_origin(hint) is Literal:
            checks[name] = one_of(get_args(hint))
        elif get_origin(hint) is Annotated:
            checks[name] = hint.__metadata__[0]
    return checks


NOTHING_FROZEN = ("knn", "scratch")
"""Regimes without a head that trains on the features of a pretrained backbone."""

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
    "mix_within_class",
    "synthetic_share",
    "zero_inputs",
)
"""Hyperparameters that decide which activations a trial reads."""


def hidden_widths(head_width: int | str) -> tuple[int, ...]:
    """Parse a checked `head_width` to the units of each hidden layer, from the features on."""
    return tuple(int(width) for width in str(head_width).split("-")) if head_width != 0 else ()


def hyperparameters() -> tuple[str, ...]:
    """List the names of all hyperparameters: the fields of TrialConfig."""
    return tuple(field.name for field in fields(TrialConfig))


def kept_epoch(config: Mapping[str, Any]) -> str:
    """Return the rule that a trial's epoch is kept by: "last", "lowest_loss" or "best".

    Studies older than the hyperparameter kept the best epoch.
    """
    rule = str(config.get("kept_epoch", "best"))
    if rule != "auto":
        return rule
    return "best" if config.get("early_stopping_patience") else KEPT_EPOCH


def make_trial_config(proposal: Mapping[str, Any]) -> TrialConfig:
    """Check a proposal of a search space.

    Raises:
        ValueError: a name that is no hyperparameter, or a value out of its range.
    """
    known = hyperparameters()
    unknown = sorted(set(proposal) - set(known))
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
    """Return the configuration as plain values, as it is stored in the study database."""
    return asdict(config)
