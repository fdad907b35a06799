"""AlexNet from torchvision, up to the first of its dense layers: the head replaces the two others."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class AlexNet(nn.Module):
    """torchvision's layers under torchvision's names, so that its weights fit."""

    def __init__(self) -> None:
        from torchvision.models import alexnet

        super().__init__()
        whole = alexnet(weights=None)
        self.features, self.avgpool = whole.features, whole.avgpool
        self.classifier = whole.classifier[:3]
        self.pretrained_cfg: dict[str, Any] = {
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "classifier": ("classifier.4", "classifier.6"),
        }

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return features

    def group_matcher(self, coarse: bool = True) -> dict[str, str]:
        """Say which parameters form a stage, by timm's protocol."""
        return {"features": r"^features\.(\d+)", "classifier": r"^classifier"}

    def reset_classifier(self, num_classes: int, global_pool: str = "") -> None:
        """Refuse to leave the pooling out, by timm's protocol.

        Raises:
            ValueError: always.
        """
        raise ValueError("alexnet ends in a dense layer: head_pooling must be average")


def make(*, image_size: int) -> nn.Module:  # noqa: ARG001
    return AlexNet()
