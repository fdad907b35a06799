"""GoogLeNet without its auxiliary classifiers, from torchvision."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

LAYERS = (
    "conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3",
    "inception4a", "inception4b", "inception4c", "inception4d", "inception4e", "maxpool4",
    "inception5a", "inception5b",
)  # fmt: skip


class GoogLeNet(nn.Module):
    """torchvision's layers under torchvision's names, so that its weights fit."""

    def __init__(self) -> None:
        from torchvision.models import googlenet

        super().__init__()
        whole = googlenet(weights=None, aux_logits=False, init_weights=True)
        for name in LAYERS:
            self.add_module(name, whole.get_submodule(name))
        self.avgpool: nn.Module = whole.avgpool
        # torchvision's weights were trained on [-1, 1], to which its own `transform_input` converts.
        self.pretrained_cfg: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "classifier": "fc"}

    def forward(self, images: Tensor) -> Tensor:
        for name in LAYERS:
            images = self.get_submodule(name)(images)
        features: Tensor = self.avgpool(images).flatten(1)
        return features

    def group_matcher(self, coarse: bool = True) -> dict[str, str]:
        """Say which parameters form a stage, by timm's protocol."""
        return {"stem": r"^conv", "inception": r"^inception(\d)"}

    def reset_classifier(self, num_classes: int, global_pool: str = "") -> None:
        """Leave the pooling out, by timm's protocol."""
        self.avgpool = nn.Identity()


def make(*, image_size: int) -> nn.Module:  # noqa: ARG001
    return GoogLeNet()
