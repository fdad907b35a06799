"""Reads the test split with the chosen model: once for each model, and written into the study."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.answer.record import Answer, load_answer
from analysis.answer.split_scores import score_split
from analysis.image_table import load_groups
from analysis.leaderboard import load_leaderboard
from analysis.predictions import Predictions
from analysis.reading import load_study
from cluster.study.directory import Study
from cluster.study.final_records import Reading
from contract.answer import Combination, MemberRef, pool_log_probabilities
from contract.messages import State, StudySettings
from wiring.answers import AnswerMaker
from wiring.unknown_class import score_test_images


def read_test_split(
    study: Study, settings: StudySettings, maker: AnswerMaker, *, say: Callable[[str], None]
) -> None:
    """Predict the test images with the exported model, and record the reading.

    A model that was read before is not read again: its reading stands. Of another model it is the second, and
    recorded as such.

    Raises:
        ValueError: the study has no test images, or no answer.
    """
    answer, digest = load_answer(study.paths), study.paths.model.identity()
    if answer is None or digest is None:
        raise ValueError("there is no model to read the test split with: run finalize.py without --test")
    record_reading(
        study,
        digest=digest,
        rule=answer.rule,
        score=lambda: score_test_split(study, settings, maker, answer),
        say=say,
    )


def record_reading(
    study: Study,
    *,
    digest: str,
    rule: str,
    score: Callable[[], Mapping[str, Any]],
    say: Callable[[str], None],
) -> Reading:
    """Record what a model does on the test split, unless its reading is recorded already.

    Args:
        digest: of the model.
        rule: what made it of the trials.
        score: reads the split; called at most once.

    Raises:
        ValueError: the study has no test images.
    """
    if not study.info["data"].get("num_test"):
        raise ValueError("the data have no test split, and so none can be read: the corrected score stands")
    known = study.records.load_readings()
    for one in known:
        if one.digest == digest:
            say("this model has read the test split before: its reading stands")
            return one
    if known:
        say(
            f"the test split was read {len(known)} time(s) before, by other models: this reading is number "
            f"{len(known) + 1} and marked so, since the model can have been chosen by what they told"
        )
    record = score()
    return study.records.add_reading(
        created=time.time(), digest=digest, rule=rule, images=record["images"], record=record
    )


def score_test_split(
    study: Study, settings: StudySettings, maker: AnswerMaker, answer: Answer
) -> dict[str, Any]:
    """Score the exported model on the test images, beside the best recipe and the best single trial."""
    from trainables.export.program import load_program
    from trainables.export.split_predictions import SplitPredictions, predict_members, predict_split

    groups = load_groups(study.directory)

    def as_predictions(found: SplitPredictions) -> Predictions:
        of = None if groups is None else groups[found.ids]
        return Predictions(found.ids, found.labels, found.log_probabilities, of)

    card = json.loads(study.paths.model.card.read_text(encoding="utf-8"))
    program = load_program(study.paths.model.program).module()
    model = as_predictions(predict_split(program, settings, "test", fit=card["fit"]))
    rivals = {}
    for name, ref in find_rivals(study, maker, answer).items():
        fitting = predict_members([ref], maker.configs, settings, "test")
        rivals[name] = as_predictions(fitting[ref])
    if "selected" in answer.facts:  # of refits, no label is needed to see whether they went another way
        selected = Combination.from_values(answer.facts["selected"])
        found = predict_members([one.ref for one in selected.members], maker.configs, settings, "test")
        stacked = np.stack([found[one.ref].log_probabilities for one in selected.members])
        weights = [one.weight for one in selected.members]
        before = pool_log_probabilities(stacked, weights, selected.pooling)
        agreement = {"refit_agreement": float((before.argmax(axis=1) == model.predicted).mean())}
    else:
        agreement = {}
    return agreement | score_split(
        model,
        rivals=rivals,
        classes=settings.classes,
        sets=answer.facts.get("prediction_sets"),
        operating_point=answer.facts.get("operating_point"),
        unknown=score_test_images(study.paths.model, model, settings),
    )


def find_rivals(study: Study, maker: AnswerMaker, answer: Answer) -> Mapping[str, MemberRef]:
    """The best single candidate and the best recipe, if they are not the answer itself and have weights."""
    found = {}
    single = MemberRef(answer.single["kind"], answer.single["number"], answer.single["view"])
    found[f"the best single one, {single.name}"] = single
    for row in load_leaderboard([load_study(study.directory)]):
        if row["recipe"] and row["state"] is State.COMPLETE:
            recipe = MemberRef("trial", row["trial"])
            if recipe != single:
                found[f"the best recipe, {recipe.name}"] = recipe
            break
    alone = answer.refs[0] if len(answer.refs) == 1 else None
    return {
        name: ref
        for name, ref in found.items()
        if ref != alone and replace(ref, view="").paths(maker.paths).weights.is_file()
    }
