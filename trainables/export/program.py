"""Writes a combination of trained classifiers as files that run without this project."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contract.answer import Combination
from contract.decoding import Fit
from contract.files import to_json
from contract.messages import StudySettings
from contract.model_layout import ModelPaths
from trainables.data.views import storage_size
from trainables.export.ensemble import load_combination
from trainables.export.members import Configs, common_fit, find_licences
from trainables.export.model_directory import write_companions
from trainables.export.parity import check_predictions

TOLERANCE = 1e-4
"""Largest difference of a probability between the exported program and the network it came from."""


@dataclass(frozen=True, kw_only=True)
class CheckedProgram:
    """The program of a combination, which predicts what its members predicted."""

    program: torch.export.ExportedProgram
    module: nn.Module
    """Runs the program: images [N, 3, size, size] in [0, 1] -> probabilities [N, C]."""

    fit: Fit
    licences: Mapping[str, str]
    """Licence of each backbone's weights."""

    def write(
        self,
        settings: StudySettings,
        *,
        target: ModelPaths,
        about: Mapping[str, Any],
        photos: Mapping[str, Path] | None = None,
    ) -> None:
        """Write the program and its card to `target`; `about` goes into the card as it is.

        Args:
            photos: golden images beside the generated ones, by their names in the model's directory.
        """
        write_program(
            self.program,
            settings,
            fit=self.fit,
            target=target,
            about=self._about(about),
            photos=photos,
            module=self.module,
        )

    def write_card(self, settings: StudySettings, *, target: ModelPaths, about: Mapping[str, Any]) -> None:
        """Write the card anew, of a program that was written before all was known of it."""
        write_card(settings, fit=self.fit, target=target, about=self._about(about))

    def _about(self, about: Mapping[str, Any]) -> dict[str, Any]:
        return {"backbone": ", ".join(self.licences), "licences": dict(self.licences), **about}


def make_checked_program(
    combination: Combination, configs: Configs, settings: StudySettings, *, compare_stored: bool = True
) -> CheckedProgram:
    """Make the program of a combination, which predicts for validation images what its members predicted.

    The program takes float32 images [N, 3, size, size] in [0, 1], N free, and gives probabilities [N, C].

    Args:
        compare_stored: False for members trained on validation images too, which have no predictions of them.

    Raises:
        ValueError: the members do not go together, the weights of one are gone, or the program computes
            something else than they do.
    """
    refs = [member.ref for member in combination.members]
    fit = common_fit(refs, configs, settings)
    network = load_combination(combination, configs, settings)
    program = export_program(network, settings.image_size)
    module = program.module()
    check_program(module, network, settings.image_size)
    if compare_stored:
        check_predictions(module, combination, configs, settings, fit=fit)
    licences = find_licences(refs, configs, settings)
    return CheckedProgram(program=program, module=module, fit=fit, licences=licences)


def make_program(network: nn.Module, image_size: int) -> torch.export.ExportedProgram:
    """Make the program of a network that maps images [N, 3, size, size] to probabilities.

    Raises:
        ValueError: the program computes something else.
    """
    program = export_program(network, image_size)
    check_program(program.module(), network, image_size)
    return program


def export_program(network: nn.Module, image_size: int) -> torch.export.ExportedProgram:
    """Export a network that maps images [N, 3, size, size], N free, to probabilities."""
    batch = torch.export.Dim("images", min=1, max=4096)
    with torch.no_grad():
        return torch.export.export(
            network, (_example_images(image_size),), dynamic_shapes={"images": {0: batch}}
        )


def check_program(module: nn.Module, network: nn.Module, image_size: int) -> None:
    """Compare an exported program with the network that it came from, on one image.

    Raises:
        ValueError: a probability differs.
    """
    image = _example_images(image_size)[:1]
    with torch.no_grad():
        difference = float((module(image) - network(image)).abs().max())
    if difference > TOLERANCE:
        raise ValueError(f"the exported program differs from the classifier by {difference:.1e}")


def _example_images(image_size: int) -> Tensor:
    return torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))


def write_program(
    program: torch.export.ExportedProgram,
    settings: StudySettings,
    *,
    fit: Fit,
    target: ModelPaths,
    about: Mapping[str, Any],
    photos: Mapping[str, Path] | None = None,
    module: nn.Module | None = None,
) -> None:
    """Write a program, its card, and what belongs beside them; `about` goes into the card as it is.

    Args:
        module: runs the program; None = it is unpacked for it.
    """
    target.directory.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found", category=UserWarning)
        torch.export.save(program, target.program)
    write_card(settings, fit=fit, target=target, about=about)
    write_companions(target, module or program.module(), photos=photos)


def write_card(settings: StudySettings, *, fit: Fit, target: ModelPaths, about: Mapping[str, Any]) -> None:
    """Write what a program's user must know of it; `about` goes into it as it is."""
    card = {
        "classes": list(settings.classes),
        "image_size": settings.image_size,
        "fit": fit,
        "storage_size": storage_size(settings.image_size, fit),
        "deep_range": list(settings.deep_range),
        **about,
    }
    target.card.write_text(to_json(card), encoding="utf-8")


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Load a program of torch.export.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        return torch.export.load(path)
    except Exception as error:  # what a damaged archive raises is torch's own choice
        raise ValueError(f"{path} is missing or damaged: run finalize.py on its study again") from error
