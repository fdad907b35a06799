"""The folder that timm loads by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contract.decoding import Floats
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths
from serving.backends.with_torch import TorchBackend


class TimmBackend(TorchBackend):
    """Runs timm's model of the folder."""

    def __init__(
        self, model: ModelPaths, card: ModelCard, *, device: str = "auto", threads: int | None = None
    ) -> None:
        super().__init__(model, card, device=device, threads=threads)
        network, mean, std = _load(model)
        self._network = network.to(self.device)
        self._mean, self._std = mean.to(self.device), std.to(self.device)

    @torch.inference_mode()
    def probabilities(self, images: Floats) -> Floats:
        """Probabilities [N, classes] of images [N, 3, S, S] in [0, 1]."""
        normalised = (torch.from_numpy(images).to(self.device) - self._mean) / self._std
        found: Floats = self._network(normalised).softmax(dim=1).cpu().numpy()
        return found


def _load(model: ModelPaths) -> tuple[nn.Module, Tensor, Tensor]:
    """Load timm's model, and mean and deviation [3, 1, 1] of the images that it was trained on.

    Raises:
        ValueError: timm is not installed, or the folder is damaged.
    """
    try:
        import timm
    except ImportError:
        raise ValueError("timm is not installed: pip install timm") from None
    try:
        network: nn.Module = timm.create_model(f"local-dir:{model.timm}", pretrained=True).eval()
        config = network.pretrained_cfg
        mean, std = (torch.tensor(config[name]).view(-1, 1, 1) for name in ("mean", "std"))  # type: ignore[index]
    except Exception as error:  # what damaged files raise is timm's own choice
        raise ValueError(f"{model.timm} is damaged, or of a newer timm: export it again") from error
    return network, mean, std
