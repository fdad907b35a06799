"""Makes the directory of a model complete: all that is needed to use it without this project."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

import contract.model_layout
from contract.model_card import ModelCard
from contract.model_layout import CODE_FILES, ModelPaths
from trainables.export.golden import write_golden

EXAMPLE = Path(__file__).with_name("model_example.py")
"""A program, not a module: it is copied and never imported."""


def write_companions(
    target: ModelPaths, program: Callable[[Tensor], Tensor], *, photos: Mapping[str, Path] | None = None
) -> None:
    """Write what belongs beside program and card: labels, golden images, the decoder's code, an example.

    Args:
        program: images [N, 3, S, S] in [0, 1] -> probabilities [N, classes].
        photos: files that become golden images beside the generated ones, by their names there.
    """
    labels = (
        " ".join(name.split()) for name in ModelCard.load(target).classes
    )  # one a line, whatever is in it
    target.labels.write_text("".join(f"{name}\n" for name in labels), encoding="utf-8")
    package = target.code / "contract"
    package.mkdir(parents=True)
    for name in CODE_FILES:
        shutil.copyfile(Path(contract.model_layout.__file__).with_name(name), package / name)
    (package / "__init__.py").write_text('"""Stands between photos and answers."""\n', encoding="utf-8")
    shutil.copyfile(EXAMPLE, target.example)
    write_golden(target, program, photos=photos)
