"""The programs that torch.export wrote."""

from __future__ import annotations

import torch

from contract.decoding import Floats
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths
from serving.backends.with_torch import TorchBackend, load_program


class ProgramBackend(TorchBackend):
    """Runs classifier.pt2."""

    def __init__(
        self, model: ModelPaths, card: ModelCard, *, device: str = "auto", threads: int | None = None
    ) -> None:
        super().__init__(model, card, device=device, threads=threads)
        self._classify = load_program(model.program, self.device)

    @torch.inference_mode()
    def probabilities(self, images: Floats) -> Floats:
        """Probabilities [N, classes] of images [N, 3, S, S] in [0, 1]."""
        found: Floats = self._classify(torch.from_numpy(images).to(self.device)).float().cpu().numpy()
        return found
