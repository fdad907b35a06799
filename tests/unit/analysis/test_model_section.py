"""The report opens with the answer, in sentences that hold for every kind of model and of study."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.__main__ import main
from analysis.answer.choose import Chosen, choose_answer
from analysis.answer.record import Answer, save_answer
from analysis.answer.split_scores import score_split
from analysis.answer.words import describe_answer, summarise_answer
from analysis.finals import Final
from analysis.predictions import Array, Predictions
from analysis.reading import load_study
from analysis.readings import TestReading
from analysis.report import write_report
from analysis.report.answer import answer_section, say_answer
from analysis.report.finals_section import finals_sections
from analysis.report.findings import Findings, find_out
from analysis.report.model_section import model_parts, say_improvements, say_model, say_unknown
from analysis.tracking.answer import describe_answer_run
from contract.finals import FinalTraining
from contract.messages import State
from contract.study_layout import StudyPaths
from tests.simulated_pool import draw_chances, make_candidate, make_pool_of
from tests.study_factory import FakeTrial, make_study

MADE_THEN = Path(__file__).parents[2] / "data" / "study_086efa2"
CLASSES = ("daisy", "rose", "tulip")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study with an exported model, whose content is of no matter here."""
    directory = make_study(tmp_path / "flowers", [FakeTrial(curve=(0.8,)), FakeTrial(curve=(0.7,))])
    model = StudyPaths(directory).model
    model.directory.mkdir()
    model.card.write_text("{}", encoding="utf-8")
    model.program.write_bytes(b"a program")
    return directory


def choose(
    chances: Sequence[Array], *, classes: int = 3, at: str | None = None, rule: str = "auto"
) -> Chosen:
    """The answer of trials that give the right class these probabilities."""
    candidates = [make_candidate(number, prefix="one") for number in range(len(chances))]
    pool = make_pool_of(chances, candidates=candidates, classes=classes)
    names = CLASSES[:classes]
    return choose_answer(pool, metric="val_accuracy", made_of="x", rule=rule, at=at, classes=names)


def read_test(study: Path, chosen: Chosen, *, number: int = 1) -> TestReading:
    """A reading of the study's model, on the validation images in the place of test images."""
    digest = StudyPaths(study).model.identity()
    assert digest is not None
    pool, facts = chosen.pool, chosen.answer.facts
    found = Predictions(pool.ids, pool.labels, np.log(chosen.probabilities))
    single = Predictions(pool.ids, pool.labels, pool.log_probabilities[0])
    record = score_split(
        found,
        rivals={"the best single one, trial 0": single},
        classes=CLASSES[: pool.num_classes],
        sets=facts["prediction_sets"],
        operating_point=facts.get("operating_point"),
    )
    return TestReading(
        reading=number,
        created=1_760_000_000.0,
        digest=digest,
        rule=chosen.answer.rule,
        images=pool.num_images,
        record=record,
    )


def findings_of(study: Path, answer: Answer | None, *readings: TestReading) -> Findings:
    return replace(find_out(load_study(study)), answer=answer, readings=readings)


def visible(parts: Sequence[str]) -> str:
    """The text of pieces of HTML."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", " ".join(parts))).split())


def alike(number: int) -> list[Array]:
    return [draw_chances(200, 0.85, seed=seed) for seed in range(number)]


def test_a_trial_that_is_higher_by_less_than_noise_is_named(study: Path) -> None:
    best = np.array([0.6] * 36 + [0.4] * 4)
    chosen = choose([best, np.array([0.95] * 35 + [0.4] * 5)], rule="single")
    alone = choose([best, np.array([0.95] * 25 + [0.4] * 15)], rule="single")
    save_answer(StudyPaths(study), chosen.answer)

    lines = describe_answer(chosen.answer)

    assert chosen.answer.facts["higher"] == {"name": "trial 0", "value": 0.9, "than": "trial 1"}
    assert "higher" not in alone.answer.facts
    assert lines[-1] == (
        "trial 0 has the higher accuracy (90.0%), by at most one standard error: of the candidates as good "
        "as it, trial 1 has the lowest log-loss"
    )
    assert "Trial 0 has the higher accuracy" in " ".join(say_model(find_out(load_study(study))))


def test_one_classifier_is_named_with_its_configuration_and_three_numbers(study: Path) -> None:
    chosen = choose(alike(2), rule="single")
    findings = findings_of(study, chosen.answer)
    trial = chosen.answer.refs[0].number

    what, good, reading = say_model(findings)
    text = visible(model_parts(findings))

    assert what.startswith(f"The model is trial {trial} (lite0, finetune")
    assert what.endswith("It was asked for with --rule single.")
    score = chosen.answer.scores["val_accuracy"]
    assert f"classifies {100 * score['corrected']:.1f}% right" in good
    assert f"reaches {100 * score['as_chosen']:.1f}%" in good
    assert reading.endswith("read it once: python finalize.py flowers --test.")
    assert "as chosen" in text and "corrected (95% interval)" in text and "test split not read yet" in text


def test_several_classifiers_are_said_to_be_one_model_and_why(study: Path) -> None:
    chosen = choose(alike(5))

    what = say_model(findings_of(study, chosen.answer))[0]

    assert chosen.answer.rule == "prefix_ensemble"
    assert f"{len(chosen.answer.refs)} classifiers in one (trial" in what
    assert "which share the frozen part of the backbone: it averages their logits" in what
    assert "beats the best single trial beyond chance: its log-loss is lower by" in what


def test_a_reading_is_told_with_date_interval_and_comparison(study: Path) -> None:
    chosen = choose(alike(5))
    findings = findings_of(study, chosen.answer, read_test(study, chosen))

    sentence, text = say_model(findings)[2], visible(model_parts(findings))

    assert sentence.startswith("On the test split, read on 9 October 2025, it classifies ")
    assert "of 200 images right (95% interval" in sentence
    assert "The answer" in text and "the best single one, trial 0" in text
    assert "The sets held the true class of" in text
    assert "not read" not in text and "reading number" not in text


def test_a_second_reading_is_marked_wherever_it_stands(study: Path) -> None:
    chosen = choose(alike(5))
    findings = findings_of(study, chosen.answer, read_test(study, chosen, number=2))

    text = visible(model_parts(findings))

    # The sentence, two metrics of the table, the comparison and the coverage.
    assert text.count("reading number 2 of this split") == 5
    assert "an earlier one may have led to this model" in text


def test_readings_of_other_models_are_named_before_this_one_is_read(study: Path) -> None:
    chosen = choose(alike(5))
    other = replace(read_test(study, chosen), digest="another model")

    sentence = say_model(findings_of(study, chosen.answer, other))[2]

    assert "not read yet" in sentence
    assert "1 other model of this study has been read there" in sentence


def test_a_study_without_a_test_split_names_no_command(study: Path) -> None:
    chosen = choose(alike(2))
    findings = findings_of(study, chosen.answer)
    data = {**findings.study.facts["data"], "num_test": 0}
    findings = replace(findings, study=replace(findings.study, facts={**findings.study.facts, "data": data}))

    text = visible(model_parts(findings))

    assert "The data have no test split, so the corrected score is all there is." in text
    assert "there is none" in text and "not read yet" not in text and "--test" not in text


def test_a_study_of_an_earlier_version_has_the_search_alone(tmp_path: Path) -> None:
    study = shutil.copytree(MADE_THEN, tmp_path / "old086")

    findings = find_out(load_study(study))
    section = answer_section(findings)

    assert model_parts(findings) == [] and finals_sections(findings) == []
    assert "The search behind it" not in section.body
    assert "expect a little less on new ones" in section.body
    assert summarise_answer(load_study(study)) == ""


def test_one_trial_alone_is_the_model_and_nothing_is_compared(study: Path) -> None:
    chosen = choose(alike(1))
    findings = findings_of(study, chosen.answer)

    text = visible(model_parts(findings))

    assert say_model(findings)[0].startswith("The model is trial 0 (")
    assert "among 1 candidate was" in text
    assert "Other ways to make a model" not in text and "beyond chance" not in text


def test_two_classes_have_ranking_and_operating_point(study: Path) -> None:
    chosen = choose(alike(3), classes=2, at="precision=0.9")
    reading = read_test(study, chosen)

    before = visible(model_parts(findings_of(study, chosen.answer)))
    after = visible(model_parts(findings_of(study, chosen.answer, reading)))

    assert 'Ranked by the probability of "rose": AUROC 0.' in before
    assert "not corrected, and not read from a test split" in before
    assert 'At precision=0.9 an image is called "rose" from probability' in before
    assert "on the test split AUROC 0." in after and "At the operating point: precision" in after


def test_the_search_does_not_contradict_the_answer(study: Path) -> None:
    chosen = choose(alike(3))

    alone, behind = (say_answer(findings_of(study, one))[0] for one in (None, chosen.answer))

    assert alone.startswith("Trial 0 is best") and "expect a little less" in alone
    assert behind.startswith("Of the trials, trial 0 is best") and "expect a little less" not in behind


def test_verdicts_on_the_rules_are_short(study: Path) -> None:
    chosen = choose(alike(5))

    text = visible(model_parts(findings_of(study, chosen.answer)))

    _, _, rules = text.partition("Other ways to make a model of these trials")
    assert "(chosen) costs no more and is no worse" in rules and "costs no more, but is worse" in rules
    assert "nats" not in rules and "It costs" not in rules


def test_images_of_other_classes_are_told_with_what_stood_for_the_model() -> None:
    measured = {"value": 0.83, "low": 0.76, "high": 0.9}
    hidden = [{"name": "rose", "auroc": {"entropy": 0.65}}, {"name": "tulip", "auroc": {"entropy": 0.75}}]
    unknown = {"score": "entropy", "threshold": -3.8, "hidden": hidden, "note": "", "missed": measured}
    unknown |= {"false_alarms": {"value": 0.048, "low": 0.03, "high": 0.07}}

    said = say_unknown(unknown)
    good = say_unknown({**unknown, "missed": {**measured, "value": 0.1}})
    none = say_unknown({**unknown, "threshold": None})

    assert "83% pass unmarked. So do not rely on it." in said
    assert "a linear probe on frozen features, which stands for the model (AUROC 0.70)" in said
    assert "rely" not in good
    assert "too few validation images" in none


def test_more_photos_begin_with_the_verdict(study: Path) -> None:
    shares = [{"share": share, "num_images": 8, "accuracy": share} for share in (0.25, 0.5, 1.0)]
    curve = {"shares": shares, "gain": 0.5, "low": 0.4, "high": 0.6, "note": "", "helps": True}
    answer = choose(alike(1)).answer

    def first(**changed: object) -> str:
        facts = {**answer.facts, "more_photos": {**curve, **changed}}
        return say_improvements(findings_of(study, replace(answer, facts=facts)))[0]

    assert first().startswith("More photos would help: with 25, 50 and 100% of the 8 training photos")
    assert first(helps=False, low=-0.1).startswith("More photos may help")
    assert first(helps=False, low=-0.1, high=0.001).startswith("More photos of this kind would hardly help")
    assert "cannot be judged: there is one class" in first(shares=[], note="there is one class")


def test_seeds_and_folds_have_tables_and_each_training_a_row(study: Path) -> None:
    answer = choose(alike(1)).answer
    seeds = [{"trial": 0, "values": [0.8, 0.9], "mean": 0.85, "deviation": 0.0707}]
    folds = [{"trial": 0, "folds": 5, "images": 1234, "accuracy": 0.87, "low": 0.85, "high": 0.89}]
    answer = replace(answer, facts={**answer.facts, "seeds": seeds, "folds": folds})
    kinds = [FinalTraining.seed(0, 1), FinalTraining.refit(0, epochs=3)]
    finals = [
        Final(
            final=number,
            training=training,
            config={},
            state=State.COMPLETE,
            epochs=3,
            kept_at_epoch=3,
            metrics={"val_accuracy": 0.9},
            seconds=12.0,
            error=None,
            worker=None,
            arrival=1.0,
        )
        for number, training in enumerate(kinds)
    ]

    (section,) = finals_sections(replace(findings_of(study, answer), finals=finals))
    text = visible([section.body])

    assert "2 trainings, 2 complete, in 24 s of worker time" in text
    assert "trial 0 2 85.0% 7.1 points 80.0%, 90.0%" in text
    assert "trial 0 5 1,234 87.0% (85.0% to 89.0%)" in text
    assert "final 0 another seed trial 0 complete 90.0% 12 s" in text
    assert "final 1 on train and validation trial 0 complete – 12 s" in text


def test_status_leaderboard_page_and_mlflow_show_a_saved_answer(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = choose(alike(5)).answer
    save_answer(StudyPaths(study), answer)

    line = summarise_answer(load_study(study))
    page = write_report(study).read_text(encoding="utf-8")
    told = describe_answer_run(load_study(study))

    assert line.startswith("answer: an ensemble on one frozen prefix (trial ")
    assert line.endswith("as chosen, test split not read yet")
    assert main(["status", str(study), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["answer"] == line
    for command in ("status", "leaderboard"):
        assert main([command, str(study)]) == 0
        assert line in " ".join(capsys.readouterr().out.split())
    assert "classifiers in one (trial" in page and "What would improve it" in page
    assert told is not None and told.tags["answer_test_split"] == "not read"
    values = {name: value for name, value, _, _ in told.points}
    assert values["answer_val_accuracy_corrected"] == answer.scores["val_accuracy"]["corrected"]
