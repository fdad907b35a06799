"""What five reports published, system by system: the facts that a trial of it must show when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RESNET50 = 23_508_032
RESNET101 = 42_500_160
VGG16 = 14_714_688  # the convolutions
BACKBONE_PARAMETERS = {
    "resnet34": 21_284_672,
    "resnet50": RESNET50,
    "resnet50d": 23_527_264,
    "resnet101": RESNET101,
    "resnet101v2": 42_492_480,
    "resnext101": 86_742_336,
    "efficientnet_b3": 10_696_232,
    "bit_r50x1": 23_500_352,
    "vgg16": VGG16,
    "vgg16_no_last_pool": VGG16,
    "mobilenet_v2": 2_223_872,
    "alexnet": 2_469_696 + 37_752_832,  # the convolutions and the first dense layer
    "googlenet": 5_599_904,
    "inception_v3": 21_785_568,
    "inception_resnet_v2": 54_306_464,
    "linear_pixels": 0,
    "six_conv": 448 + 4_640 + 18_496 + 73_856 + 295_168 + 590_080,
    "handcrafted": 406_149 - 16_448 - 325,  # without dense 64 and softmax of five classes
    "mobilenet_v2_mish": 2_223_872,
    "mobilenet_v2_mish_dropout": 2_223_872,
    "mobilenet_v2_mish_blur": 2_223_872,
}
"""As counted by the papers or their reference code, without classifier."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published training; what a report leaves open is not asserted."""

    backbone: str
    trains: tuple[str, ...] = ("head",)
    """What of the backbone trains in one phase after the other: head = nothing, part, or all."""

    head: str = "softmax"
    """Layers of the head; `flatten` where every position of the last maps counts."""

    optimizer: str = "Adam"
    batch_size: int | None = 32
    schedule: str | None = None
    momentum: float | None = None
    rates: tuple[float, ...] = ()
    """The head's peak learning rate, phase by phase."""

    pretrained: bool = True
    augmentation: Mapping[str, object] | None = None
    """Fields of the policy; None where nothing was augmented."""

    is_augmented: bool = False
    """Augmented in a way that the report does not say."""

    layers: Mapping[str, int] = field(default_factory=dict)
    """How many modules of a class the backbone has; -1 = at least one."""

    config: Mapping[str, object] = field(default_factory=dict)
    """Further hyperparameters."""


TWO_PHASES = ("head", "all")
SCRATCH: dict[str, object] = {"trains": ("all",), "pretrained": False}
DENSE_256 = "flatten, norm, 256, relu, dropout 0.5, softmax"
DENSE_100_50 = "100, relu, dropout 0.5, 50, relu, dropout 0.5, softmax"
PATIENT = {"early_stopping_patience": 5}
FLIPS_AND_SHIFTS = {"flip": True, "flip_vertical": True, "shift": 0.1}
FLOWERS_E7 = {"flip": True, "zoom": 0.2, "shift": 0.2, "contrast": 0.3}  # 45 of 224 pixels
CROP_FLIP_ERASE = {"flip": True, "random_crop": True, "erasing": 0.5}


def plants(**changes: object) -> Published:
    """B4 and what was changed of it."""
    facts = {"backbone": "resnet50", "trains": TWO_PHASES, "batch_size": 64, "rates": (1e-3, 1e-5)}
    return Published(**(facts | changes))  # type: ignore[arg-type]


def imagenette(backbone: str, **changes: object) -> Published:
    facts = {"backbone": backbone, **SCRATCH, "schedule": "cosine", "augmentation": CROP_FLIP_ERASE}
    return Published(**(facts | changes))  # type: ignore[arg-type]


def scenes(**changes: object) -> Published:
    facts: dict[str, object] = {"backbone": "resnet101", "head": DENSE_256, "batch_size": None}
    return Published(**(facts | changes))  # type: ignore[arg-type]


def scratch(backbone: str, **changes: object) -> Published:
    return Published(backbone=backbone, **(SCRATCH | changes))  # type: ignore[arg-type]


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "A1": (Published(backbone="resnet50", optimizer="", batch_size=None, config={"num_neighbours": 5}),),
    "A2": (Published(backbone="resnet50"),),
    "A3": (Published(backbone="resnet50", is_augmented=True),),
    "A4": (Published(backbone="resnet50", trains=("all",), is_augmented=True),),
    "A5": (scratch("resnet50"),),
    "A6": (Published(backbone="resnext101"),),
    "A7": (Published(backbone="resnext101", is_augmented=True),),
    "A8": (Published(backbone="resnext101", trains=("all",), is_augmented=True),),
    "A9": (scratch("resnext101"),),
    "A10": (Published(backbone="efficientnet_b3", trains=("part",), is_augmented=True),),
    "A11": (
        Published(
            backbone="bit_r50x1",
            trains=("all",),
            optimizer="SGD",
            momentum=0.9,
            batch_size=512,
            schedule="hyperrule",
            rates=(0.003,),
            augmentation={"flip": True, "random_crop": True},
            config={"weight_decay": 0.0, "dropout": 0.0, "label_smoothing": 0.0, "mixup_alpha": 0.0},
        ),
    ),
    "B1": (scratch("linear_pixels", head="flatten, softmax", batch_size=None),),
    "B2": (scratch("linear_pixels", head="flatten, softmax", batch_size=None, config={"zero_inputs": True}),),
    "B3": (plants(backbone="vgg16", batch_size=None),),
    "B4": (plants(config={"early_stopping_patience": 10}),),
    "B5": (
        scratch(
            "six_conv",
            head="flatten, softmax",
            batch_size=None,
            layers={"Conv2d": 6, "ReLU": 6, "MaxPool2d": 6},
        ),
    ),
    "B6": (
        plants(backbone="vgg16", batch_size=None, layers={"MaxPool2d": 5}),
        plants(backbone="vgg16_no_last_pool", batch_size=None, layers={"MaxPool2d": 4}),
    ),
    "B7": tuple(plants(batch_size=size) for size in (4, 8, 16, 32, 64)),
    "B8": (scratch("hyper_resnet:v2:50:average", batch_size=None, is_augmented=True),),
    "B9": (plants(augmentation=FLIPS_AND_SHIFTS),),
    "B10": (plants(augmentation=FLIPS_AND_SHIFTS, config={"class_weights": "balanced"}),),
    "B11": (plants(augmentation=FLIPS_AND_SHIFTS, config={"minority_policy": "medium"}),),
    "B12": (plants(augmentation=FLIPS_AND_SHIFTS, config={"mix": "cutmix"}),),
    "B16": (plants(augmentation=FLIPS_AND_SHIFTS, config={"synthetic_share": 1.0}),),
    "C1": (imagenette("mobilenet_v2_mish", layers={"Mish": -1, "ReLU6": 0, "Dropout": 0}),),
    "C2": (imagenette("mobilenet_v2_mish_dropout", layers={"Mish": -1}, head="dropout 0.2, softmax"),),
    "C3": (imagenette("mobilenet_v2_mish_blur", layers={"Mish": -1, "BlurPool2d": -1}),),
    "C4": (
        imagenette("resnet34"),
        imagenette("resnet50"),
        imagenette("resnet50d"),
        imagenette("googlenet"),
    ),
    "C5": (imagenette("resnet50", head="dropout 0.5, softmax"),),
    "C6": (imagenette("resnet50"), imagenette("resnet50", optimizer="SGD", momentum=0.9)),
    "C7": (
        imagenette("resnet50", schedule="constant", rates=(0.001,)),
        imagenette("resnet50", schedule="exponential"),
        imagenette("resnet50", schedule="cosine"),
    ),
    "D1": (scenes(config={"steps_per_epoch": 50}),),
    "D2": (scenes(trains=TWO_PHASES, config={"steps_per_epoch": 50}),),
    "D3": (scenes(backbone="inception_resnet_v2", config={"steps_per_epoch": 50}),),
    "D4": (scenes(backbone="inception_resnet_v2", trains=("head", "part")),),
    "D5": (scenes(backbone="resnet101v2"), scenes(backbone="vgg16")),
    "D6": (
        scenes(head="flatten, norm, 128, relu, dropout 0.5, softmax"),
        scenes(),
        scenes(head="flatten, norm, 512, relu, dropout 0.5, softmax"),
        scenes(head="flatten, 256, relu, dropout 0.5, softmax"),
        scenes(head="flatten, norm, 512, relu, dropout 0.5, 256, relu, dropout 0.5, softmax"),
        scenes(head="flatten, norm, 256, relu, dropout 0.2, softmax"),
    ),
    "D7": (
        scenes(),
        *(scenes(optimizer="SGD", momentum=momentum) for momentum in (0.0, 0.5, 0.9)),
        scenes(optimizer="RMSprop"),
    ),
    "D8": (
        scenes(
            trains=TWO_PHASES,
            schedule="plateau",
            config={"steps_per_epoch": 50, "validation_images": 960, "early_stopping_patience": 5},
        ),
    ),
    "D9": (scenes(augmentation={"flip": True, "shift": 0.1, "zoom": 0.1}),),
    "E1": (
        scratch(
            "handcrafted",
            head="64, relu, dropout 0.1, softmax",
            config=PATIENT,
            layers={"Conv2d": 4, "BatchNorm2d": 4},
        ),
    ),
    "E2": (Published(backbone="mobilenet_v2", head="1024, relu, softmax", config=PATIENT),),
    "E3": (Published(backbone="alexnet", head="2048, relu, softmax", config=PATIENT),),
    "E4": (Published(backbone="inception_v3", head=DENSE_100_50, config=PATIENT),),
    "E5": (Published(backbone="vgg16", head=DENSE_100_50, config=PATIENT),),
    "E6": (Published(backbone="resnet50", head=DENSE_100_50, config=PATIENT),),
    "E7": (
        Published(
            backbone="resnet50",
            head="512, relu, dropout 0.5, 128, relu, dropout 0.5, softmax",
            augmentation=FLOWERS_E7,
            config={**PATIENT, "head_l2": 0.01},
        ),
    ),
}
