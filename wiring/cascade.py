"""Puts the models of two studies together: one class against the rest, and the classes of the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.answer.cascade import Cascade
from analysis.answer.record import Answer
from analysis.answer.split_scores import score_split
from analysis.answer.words import SHOWN, describe_cascade, find_reading, has_test_split
from analysis.calibration.prediction_sets import fit_threshold, fit_thresholds
from analysis.comparison import confidence_interval
from analysis.predictions import Predictions
from analysis.reading import load_study
from analysis.report import is_current, write_report
from cluster.study.directory import Study
from contract.decoding import Fit
from contract.files import fill_aside, remove_leftovers
from contract.messages import StudySettings
from contract.model_layout import ModelPaths
from wiring.answers import AnswerMaker
from wiring.model_directory import refresh_readme
from wiring.model_formats import FormatAdder, telling_lost_formats
from wiring.plan import console, say
from wiring.results import Results, attempt
from wiring.split_reading import record_reading

if TYPE_CHECKING:
    from trainables.export.split_predictions import Split, SplitPredictions

COMMAND = "finalize.py"
RULE = "cascade"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A study whose model becomes a part of the cascade."""

    study: Study
    settings: StudySettings
    maker: AnswerMaker
    keeps_answer: bool
    """An answer that was made with other wishes stays, as long as the candidates are the same."""

    def find_answer(self) -> Answer | None:
        return self.maker.find_current(of_any_wishes=self.keeps_answer)

    @property
    def facts(self) -> dict[str, str | None]:
        """What the card says of it; another digest makes the cascade a stale one."""
        return {"study": self.study.directory.name, "digest": self.study.paths.model.digest()}


@dataclass(frozen=True, kw_only=True)
class CascadeMaker:
    """Makes one model of two studies' models; nothing is trained."""

    cascade: Cascade
    first: Part
    second: Part

    @property
    def parts(self) -> tuple[Part, Part]:
        return self.first, self.second

    @property
    def model(self) -> ModelPaths:
        return self.first.study.paths.cascade(self.second.study.directory.name)

    def check(self) -> None:
        """Refuse studies whose models cannot share their images.

        Raises:
            ValueError: in one line, what does not fit and what to do.
        """
        sizes = [part.settings.image_size for part in self.parts]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{self.cascade.first.name} has images of {sizes[0]} pixels and {self.cascade.second.name} "
                f"of {sizes[1]}: search one of them again with the other's --image-size"
            )

    def make(self, *, test: bool, formats: Sequence[str] = ()) -> bool:
        """Make what is lacking, read the test split if that is asked for, and say what came of it.

        Args:
            formats: are added to the model.

        Returns:
            False after a failure, which has been printed.

        Raises:
            ValueError: the models do not fit, or there are no test images.
        """
        if not all(self._make_answer(part) for part in self.parts):
            return False
        if self._read_card() is None:
            told = telling_lost_formats(self.model, say, asked=formats)
            with told, console.status("putting both models together"):
                self._export()
        if test:
            self._read_test_split()
        added = self._add_formats(formats)
        refresh_readme(self.model, self.first.study.directory, {})
        card = self._read_card()
        assert card is not None
        readings = [find_reading(part.study.directory, model=self.model) for part in self.parts]
        has_test = has_test_split(load_study(self.first.study.directory))
        for line in describe_cascade(card, *readings, has_test=has_test):
            say(line)
        say(f"model: {self.model.directory}")
        # The answer of either study may stand in another light now: its next reading is a later one.
        written = [
            attempt("the report could not be written", partial(refresh, part), command=COMMAND)
            for part in self.parts
        ]
        return all(written) and added

    def _add_formats(self, formats: Sequence[str]) -> bool:
        images = self.cascade.images("val")
        adder = FormatAdder(
            model=self.model,
            settings=self.first.settings,
            find_labels=lambda ids: images.labels[np.searchsorted(images.ids, ids)],
            say=say,
        )
        return adder.add(formats, console)

    def _make_answer(self, part: Part) -> bool:
        if part.find_answer() is not None:
            return True
        say(f"{part.study.directory.name}:")
        results = Results(
            directory=part.study.directory,
            maker=part.maker,
            console=console,
            keeps_answer=part.keeps_answer,
            command=COMMAND,
        )
        return results.make()

    def _read_card(self) -> dict[str, Any] | None:
        """The cascade's card; None unless it is made of the models that both studies have now."""
        try:
            card: dict[str, Any] = json.loads(self.model.card.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        facts = [part.facts for part in self.parts]
        is_whole = self.model.is_whole and card.get("classes") == list(self.cascade.classes)
        return card if is_whole and card.get("parts") == facts else None

    @cached_property
    def _answers(self) -> tuple[Answer, Answer]:
        first, second = (part.find_answer() for part in self.parts)
        assert first is not None
        assert second is not None
        return first, second

    def _export(self) -> None:
        from trainables.export.cascade import load_cascade
        from trainables.export.program import make_program, write_program

        settings, cascade = self.first.settings, self.cascade
        models = [part.study.paths.model for part in self.parts]
        module, shared = load_cascade(models[0], models[1], one=cascade.one, order=cascade.order)
        program = make_program(module, settings.image_size)
        about = self._describe(program.module(), fit=shared["fit"]) | {"licences": shared["licences"]}
        target = self.model.directory
        remove_leftovers(target.parent, target.name)  # of a run that was killed here
        with fill_aside(target, replace=True, durable=True) as folder:
            write_program(
                program,
                replace(settings, classes=cascade.classes),
                fit=shared["fit"],
                target=ModelPaths(folder),
                about=about,
            )
            refresh_readme(ModelPaths(folder), self.first.study.directory, {})

    def _describe(self, program: Any, *, fit: Fit) -> dict[str, Any]:
        """What the card says of the cascade's origin, its scores and its threshold."""
        cascade = self.cascade
        about: dict[str, Any] = {
            "study": cascade.first.name,
            "rule": RULE,
            "one": cascade.first.classes[cascade.one],
            "parts": [part.facts for part in self.parts],
            "scores": {},
            "prediction_sets": None,
        }
        thresholds: dict[str, Any] = {"prediction_sets": None, "unknown": None, "operating_point": None}
        if not any(has_refit(answer) for answer in self._answers):
            val = self._predict(program, "val", fit=fit)
            sets = fit_threshold(val.probabilities, val.labels, groups=val.groups)
            about |= {"scores": self._score(val), "prediction_sets": sets.as_values()}
            thresholds["prediction_sets"] = fit_thresholds(val.probabilities, val.labels)
        return about | {"thresholds": thresholds}

    def _predict(self, program: Any, split: Split, *, fit: Fit) -> Predictions:
        from trainables.export.split_predictions import predict_split

        found: SplitPredictions = predict_split(program, self.first.settings, split, fit=fit)
        images = self.cascade.images(split)
        rows = np.searchsorted(images.ids, found.ids)
        return Predictions(found.ids, images.labels[rows], found.log_probabilities, images.groups[rows])

    def _score(self, val: Predictions) -> dict[str, dict[str, float]]:
        """Scores on the validation images, and less what choosing both models on them has added.

        The log-loss of a cascade is the first's and, over the images of the rest, the second's; so what was
        added to either adds up to what was added to it. For the accuracy that is at most
        what was added, since an image can be wrong twice.
        """
        name = self.cascade.first.classes[self.cascade.one]
        share = float((val.labels != self.cascade.classes.index(name)).mean())
        scores = {}
        for metric in SHOWN:
            interval = confidence_interval(val, metric=metric)
            assert interval is not None
            first, second = (correction_of(answer, metric) for answer in self._answers)
            change = first + share * second
            top = 1.0 if metric == "val_accuracy" else np.inf
            corrected, low, high = (min(max(value + change, 0.0), float(top)) for value in interval)
            scores[metric] = {"as_chosen": interval[0], "corrected": corrected, "low": low, "high": high}
        return scores

    def _read_test_split(self) -> None:
        """Record the reading in both studies: either's next model may be chosen by what it told."""
        digest = self.model.identity()
        assert digest is not None
        reading = record_reading(
            self.first.study, digest=digest, rule=RULE, score=self._score_test_split, say=say
        )
        self.second.study.records.add_reading(
            digest=digest,
            rule=RULE,
            images=reading.images,
            record=reading.record,
            created=reading.created,
        )

    def _score_test_split(self) -> dict[str, Any]:
        from trainables.export.program import load_program

        card = self._read_card()
        assert card is not None
        program = load_program(self.model.program).module()
        return score_split(
            self._predict(program, "test", fit=card["fit"]),
            rivals={},
            classes=self.cascade.classes,
            sets=card["prediction_sets"],
        )


def has_refit(answer: Answer) -> bool:
    """True if members of the answer were trained on the validation images, too."""
    wishes: Mapping[str, Any] = answer.facts.get("wishes") or {}
    return bool(wishes.get("refit"))


def correction_of(answer: Answer, metric: str) -> float:
    """Corrected score less the one as chosen: negative for an accuracy, positive for a loss."""
    score = answer.scores.get(metric)
    return score["corrected"] - score["as_chosen"] if score else 0.0


def refresh(part: Part) -> None:
    """Write the study's report again if it is older than what is recorded now."""
    if not is_current(part.study.directory):
        with console.status("writing the report"):
            write_report(part.study.directory)
