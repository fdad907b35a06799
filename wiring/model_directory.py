"""Keeps the directory of a model true to what is known of it: README.md, checksums, golden photos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.answer.model_readme import ModelFacts, render_readme
from analysis.answer.words import find_reading, has_test_split
from analysis.image_table import load_image_table
from analysis.reading import load_study
from contract.files import save_text
from contract.messages import StudySettings
from contract.model_layout import ModelPaths


def refresh_readme(model: ModelPaths, study_dir: Path, facts: Mapping[str, Any]) -> None:
    """Write README.md and the checksums of a model, unless they are as they should be.

    Args:
        facts: of the answer, whose sentences go into the text.
    """
    study = load_study(study_dir)
    card = json.loads(model.card.read_text(encoding="utf-8"))
    text = render_readme(
        ModelFacts(
            card=card,
            study=study,
            said=list_sentences(facts),
            reading=find_reading(study_dir, model=model),
            has_test=has_test_split(study),
        )
    )
    is_same = model.readme.is_file() and model.readme.read_text(encoding="utf-8") == text
    if is_same and model.checksums.is_file():
        return
    model.checksums.unlink(missing_ok=True)  # a kill in between leaves none rather than wrong ones
    save_text(model.readme, text)
    model.write_checksums()


def list_sentences(facts: Mapping[str, Any]) -> list[str]:
    """What an answer says of itself: of its operating point, unknown classes, more photos, refits."""
    named = [facts.get(name) for name in ("operating_point", "unknown", "more_photos")]
    said = [str(one["said"]) for one in named if one]
    if (facts.get("wishes") or {}).get("refit"):
        said.insert(0, "It was trained on the validation images too: the scores are of the version before.")
    if "metric_note" in facts:
        said.append(str(facts["metric_note"]))
    return said


def choose_golden_photos(settings: StudySettings, number: int) -> dict[str, Path]:
    """Choose validation photos of all classes in turn, drawn by the seed: files by their golden names."""
    table = load_image_table(settings.paths.directory)
    ids = np.random.default_rng(settings.seed).permutation(table.of("val"))
    labels = table.labels[ids]
    turn = [int((labels[:place] == label).sum()) for place, label in enumerate(labels)]
    chosen = ids[np.lexsort((labels, turn))][:number]
    return {
        f"photo{place}{table.paths[one].suffix.lower()}": table.paths[one]
        for place, one in enumerate(chosen, start=1)
    }
