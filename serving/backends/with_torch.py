"""What the formats that torch runs share: the device, and the program for unknown classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from contract.decoding import Floats
from contract.model_answers import needs_scores
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths


class TorchBackend:
    """Holds the device, and unknown.pt2 where the card needs it."""

    def __init__(
        self, model: ModelPaths, card: ModelCard, *, device: str = "auto", threads: int | None = None
    ) -> None:
        self.device = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        self._score = load_program(model.unknown, self.device) if needs_scores(card) else None

    @torch.inference_mode()
    def scores(self, images: Floats, probabilities: Floats) -> Floats:
        """Scores [N], low for images of unknown classes."""
        assert self._score is not None
        given = [torch.from_numpy(one).to(self.device) for one in (images, probabilities)]
        found: Floats = self._score(*given).float().cpu().numpy()
        return found


def choose_device(name: str) -> torch.device:
    """Find the device of a name: "cpu", "cuda", "cuda:1" or "auto", a GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    num_gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if num_gpus else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: cpu, cuda, cuda:1 or auto") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= num_gpus):
        raise ValueError(f"--device {name}: there is no such device here, but {num_gpus} GPUs and the CPU")
    return device


def load_program(path: Path, device: torch.device) -> nn.Module:
    """Load a program of torch.export onto a device.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        program = torch.export.load(path)
    except Exception as error:  # what a damaged archive raises is torch's own choice
        raise ValueError(f"{path} is missing or damaged, or of a newer torch: export it again") from error
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    module: nn.Module = program.module()
    return module
