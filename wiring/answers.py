"""Makes the answer of a study: chooses among its candidates, judges the choice, and exports it as a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.answer.choose import Chosen, choose_answer
from analysis.answer.pool import Candidate, load_pool, trial_candidate
from analysis.answer.record import Answer, load_answer, save_answer
from analysis.answer.scores import check_metric
from analysis.comparison import confidence_interval
from analysis.finals import Final
from analysis.image_table import load_groups
from analysis.predictions import Predictions, join_predictions, load_file
from analysis.reading import Row, load_study, load_trial_rows
from contract.answer import MemberRef, WeightedMember
from contract.files import fill_aside, remove_leftovers
from contract.finals import FinalKind
from contract.messages import State, StudySettings
from contract.metrics import METRICS
from contract.model_layout import ModelPaths
from contract.study_layout import StudyPaths
from wiring.answer_judgement import judge, one_blas_thread, prepare_unknown
from wiring.answer_memory import measure_once, stamp_predictions
from wiring.model_directory import choose_golden_photos, refresh_readme
from wiring.unknown_class import needs_program

if TYPE_CHECKING:
    from trainables.export.program import CheckedProgram
    from wiring.side_process import Calls

DEFAULT_METRIC = "val_accuracy"
"""Metric that rules go by where predictions do not determine the study's."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the answer is to be made with; an answer of other wishes is made anew."""

    rule: str = "auto"
    at: str | None = None
    views: int = 1
    """2 adds the mirrored image as a second view of the candidates that trained on mirrored ones."""

    golden: int = 0
    """Validation photos that become golden images of the model."""

    refit: bool = False
    """Put the members' repetitions on train and validation images in their place."""


@dataclass(frozen=True, kw_only=True)
class AnswerMaker:
    """Makes the answer of one study from what lies in its directory; nothing is trained."""

    settings: StudySettings
    trials: Mapping[int, Mapping[str, Any]]
    """Configuration of every trial by its number."""

    finals: Sequence[Final] = ()
    wishes: Wishes = field(default_factory=Wishes)

    @property
    def paths(self) -> StudyPaths:
        return self.settings.paths

    @cached_property
    def configs(self) -> dict[MemberRef, Mapping[str, Any]]:
        """Configuration of every final training, and of every trial but those whose space raised."""
        trained = {MemberRef("final", one.final): one.config for one in self.finals}
        proposed = {number: config for number, config in self.trials.items() if "backbone" in config}
        return {MemberRef("trial", number): config for number, config in proposed.items()} | trained

    @cached_property
    def metric(self) -> str:
        try:
            check_metric(self.settings.metric)
        except ValueError:
            return DEFAULT_METRIC
        return self.settings.metric

    @cached_property
    def stamp(self) -> str:
        """Hash of the candidates' predictions, which the answer is made of.

        Not of their weights: those that the answer does not need may be freed.
        """
        return stamp_predictions(self.paths)

    def find_current(self, *, of_any_wishes: bool = False) -> Answer | None:
        """The answer made of the present candidates with these wishes, if its model is there too."""
        answer = load_answer(self.paths)
        if answer is None or not is_export_of(self.paths.model, answer):
            return None
        if self.stamp not in ("", answer.made_of):  # without any predictions nothing else can be made
            return None
        is_wanted = of_any_wishes or answer.facts.get("wishes") == asdict(self.wishes)
        return answer if is_wanted else None

    def make(self, beside: Calls | None = None) -> Answer:
        """Choose, judge, export, and write answer.json last, so that a kill in between is made good.

        Args:
            beside: another process, which judges while this one exports.

        Raises:
            ValueError: there is no candidate, or the wishes do not fit the study.
        """
        if beside is not None:
            beside.begin(prepare_unknown, self.settings, self._expect_config())
        with one_blas_thread():
            chosen = self._choose()
        answer = self._with_refits(chosen.answer)
        paths = (self.paths.model.directory, self.paths.answer, self.paths.costs)
        for path in paths:
            remove_leftovers(path.parent, path.name)  # of a run that was killed here
        with fill_aside(self.paths.model.directory, replace=True, durable=True) as folder:
            judged = (self.settings, chosen.pool, chosen.probabilities, self._config_of(chosen), folder)
            if beside is not None:
                beside.begin(judge, *judged)
            program = self._make_program(answer)
            target = ModelPaths(folder)
            self._write_model(answer, program, target)
            if beside is not None:
                beside.result()  # of the preparation
            judgement = judge(*judged) if beside is None else beside.result()
            answer = replace(answer, facts={**answer.facts, **judgement, **self._more_facts()})
            program.write_card(self.settings, target=target, about=describe_export(answer, self.settings))
            refresh_readme(target, self.paths.directory, answer.facts)
        save_answer(self.paths, answer)
        return answer

    def _more_facts(self) -> dict[str, Any]:
        more = {"wishes": asdict(self.wishes), **self._repeated()}
        if self.metric != self.settings.metric:
            more["metric_note"] = (
                f"The rules go by {self.metric}: {self.settings.metric}, which the search went by, is not "
                "computed on resamples."
            )
        return more

    def choose(self) -> Answer:
        """Choose without judging or writing anything.

        Raises:
            ValueError: as `make`.
        """
        return self._with_refits(self._choose().answer)

    @property
    def selectable(self) -> list[MemberRef]:
        """Trials and repetitions whose weights and predictions are there."""
        chosen = {MemberRef("final", one.final) for one in self.finals if one.is_selectable}
        return [
            ref
            for ref in self.configs
            if (ref.kind == "trial" or ref in chosen)
            and ref.paths(self.paths).weights.is_file()
            and ref.paths(self.paths).predictions.is_file()
        ]

    def find_sources(self, *, among_trials: bool) -> list[int]:
        """Numbers of the trials whose configurations the members of the answer have.

        Args:
            among_trials: choose among the trials alone, without repetitions and views.
        """
        maker = self
        if among_trials:
            rule = "auto" if self.wishes.rule == "soup" else self.wishes.rule  # soups are no trials
            maker = replace(self, finals=(), wishes=replace(self.wishes, rule=rule, views=1))
        refs = maker._choose().answer.refs
        return sorted({self.source_of(ref) for ref in refs})

    def _choose(self) -> Chosen:
        pool = load_pool(self.paths.directory, extra=self._extra_candidates())
        if pool is None:
            raise ValueError(
                "no trial has predictions of the validation images: they were freed, or never written, so "
                "that there is nothing to choose"
            )
        from trainables.export.latency import CombinationCosts
        from trainables.export.members import fit_of

        costs = CombinationCosts(settings=self.settings)
        measure = measure_once(
            self.paths,
            lambda one: costs.milliseconds(one, self.configs),
            device="cuda" if self.settings.use_gpu else "cpu",
        )
        return choose_answer(
            pool,
            metric=self.metric,
            made_of=self.stamp,
            rule=self.wishes.rule,
            at=self.wishes.at,
            classes=self.settings.classes,
            fits={ref: fit_of(config, self.settings) for ref, config in self.configs.items()},
            soups=[ref for ref in self.configs if self.kind_of(ref) == FinalKind.SOUP],
            measure_costs=measure,
        )

    def _extra_candidates(self) -> list[tuple[Candidate, Predictions]]:
        """Final trainings that may be chosen, and mirrored views, each with its predictions."""
        groups = load_groups(self.paths.directory)
        found = []
        for one in self.finals:
            ref = MemberRef("final", one.final)
            predictions = load_file(ref.paths(self.paths).predictions, groups=groups)
            if one.is_selectable and predictions is not None:
                found.append((self._candidate(ref, one.training.name), predictions))
        if self.wishes.views > 1:
            for ref in self.configs:
                predictions = load_file(ref.paths(self.paths).flipped_predictions, groups=groups)
                if predictions is not None:
                    flipped = replace(ref, view="flip")
                    found.append((self._candidate(flipped, flipped.name), predictions))
        return found

    def _candidate(self, ref: MemberRef, name: str) -> Candidate:
        """Describe a final training, or a view, as the trial is described whose configuration it has."""
        row = self._rows[self.source_of(ref)]
        selectable = ref.paths(self.paths).weights.is_file()
        return replace(trial_candidate(row, selectable=selectable), ref=ref, name=name, is_recipe=False)

    @cached_property
    def _rows(self) -> dict[int, Row]:
        """Trials as the leaderboard has them, by number."""
        return {row["trial"]: row for row in load_trial_rows(load_study(self.paths.directory))}

    def _expect_config(self) -> Mapping[str, Any]:
        """Configuration of the best trial, whose backbone is mostly that of the answer's first member."""
        sign = 1 if METRICS[self.metric].maximize else -1
        values = {number: row.get(self.metric) for number, row in self._rows.items()}
        known = {number: sign * value for number, value in values.items() if value is not None}
        return self.trials[max(known, key=lambda number: known[number], default=min(self.trials))]

    def _config_of(self, chosen: Chosen) -> Mapping[str, Any]:
        """Configuration of the first member, whose pretrained backbone gives the features that judge it."""
        return self.configs[replace(chosen.answer.refs[0], view="")]

    def _with_refits(self, answer: Answer) -> Answer:
        """Put refits in the members' places; weights and temperature stay those of the selected version."""
        if not self.wishes.refit:
            return answer
        refits = {one.training.source: one for one in self.finals if one.training.kind == FinalKind.REFIT}
        shares: dict[MemberRef, float] = {}  # a trial and its repetition have one refit
        for member in answer.combination.members:
            refit = refits.get(self.source_of(member.ref))
            if refit is None or refit.state is not State.COMPLETE:
                raise ValueError(_say_no_refit(member.ref, refit))
            ref = MemberRef("final", refit.final, member.ref.view)
            shares[ref] = shares.get(ref, 0.0) + member.weight
        members = [WeightedMember(ref=ref, weight=weight) for ref, weight in shares.items()]
        facts = {**answer.facts, "selected": answer.combination.as_values(), "refits": self._check_refits()}
        return replace(answer, combination=replace(answer.combination, members=tuple(members)), facts=facts)

    def _check_refits(self) -> list[dict[str, Any]]:
        """Training loss of each refit beside its trial's: far apart, the refit went another way."""
        return [
            {
                "trial": one.training.source,
                "trial_train_loss": self._rows[one.training.source].get("train_loss"),
                "refit_train_loss": one.metrics.get("train_loss"),
            }
            for one in self.finals
            if one.training.kind == FinalKind.REFIT and one.state is State.COMPLETE
        ]

    def _repeated(self) -> dict[str, Any]:
        """Mean and spread over the seeds of each repeated trial, and its scores over all folds."""
        ended = [one for one in self.finals if one.state is State.COMPLETE]
        seeds, folds = [], []
        for source in sorted({one.training.source for one in ended}):
            own = [one for one in ended if one.training.source == source]
            values = [one.metrics[self.metric] for one in own if one.training.kind == FinalKind.SEED]
            if values:
                values.insert(0, float(self._rows[source][self.metric]))
                spread = {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1))}
                seeds.append({"trial": source, "values": values, **spread})
            folds += self._score_folds(source, [one for one in own if one.training.kind == FinalKind.FOLD])
        return {name: found for name, found in (("seeds", seeds), ("folds", folds)) if found}

    def _score_folds(self, source: int, trained: Sequence[Final]) -> list[dict[str, Any]]:
        """Score the predictions of all folds together, each by the training that did not see it."""
        groups, found = load_groups(self.paths.directory), []
        for number in sorted({one.training.num_folds or 0 for one in trained}):
            parts = [
                load_file(self.paths.final(one.final).predictions, groups=groups)
                for one in trained
                if one.training.num_folds == number
            ]
            if len(parts) < number or any(part is None for part in parts):
                continue
            joined = join_predictions([part for part in parts if part is not None])
            accuracy = confidence_interval(joined, metric="val_accuracy")
            loss = confidence_interval(joined, metric="val_loss")
            assert accuracy is not None and loss is not None
            scores = dict(zip(("accuracy", "low", "high"), accuracy, strict=True))
            found.append({"trial": source, "folds": number, "images": len(joined), **scores, "loss": loss[0]})
        return found

    def source_of(self, ref: MemberRef) -> int:
        """Number of the trial whose configuration a member has."""
        if ref.kind == "trial":
            return ref.number
        return next(one.training.source for one in self.finals if one.final == ref.number)

    def kind_of(self, ref: MemberRef) -> str:
        """Kind of a final training; "trial" of a trial."""
        if ref.kind == "trial":
            return "trial"
        return str(next(one.training.kind for one in self.finals if one.final == ref.number))

    def _make_program(self, answer: Answer) -> CheckedProgram:
        from trainables.export.program import make_checked_program  # torch takes seconds to import

        return make_checked_program(
            answer.combination, self.configs, self.settings, compare_stored=not self.wishes.refit
        )

    def _write_model(self, answer: Answer, program: CheckedProgram, target: ModelPaths) -> None:
        program.write(
            self.settings,
            target=target,
            about=describe_export(answer, self.settings),
            photos=choose_golden_photos(self.settings, self.wishes.golden),
        )


def _say_no_refit(ref: MemberRef, refit: Final | None) -> str:
    if refit is None or not refit.state.has_ended:
        return f"{ref.name} has no refit: run the same command again"
    return f"the refit of {ref.name} {refit.state} ({refit.error}): leave --refit out"


def describe_export(answer: Answer, settings: StudySettings) -> dict[str, Any]:
    """What the exported model's card says of its origin and its thresholds."""
    facts = answer.facts
    first = answer.combination.members[0].ref
    return {
        "study": settings.paths.directory.name,
        "trial": first.number if first.kind == "trial" and len(answer.refs) == 1 else None,
        "rule": answer.rule,
        **answer.combination.as_values(),
        "metrics": {answer.metric: answer.scores.get(answer.metric, {}).get("corrected")},
        "scores": {name: dict(score) for name, score in answer.scores.items()},
        "thresholds": {
            "prediction_sets": facts["set_thresholds"],
            "unknown": {name: facts["unknown"][name] for name in ("score", "threshold")}
            if "unknown" in facts
            else None,
            "operating_point": facts.get("operating_point", {}).get("threshold"),
        },
    }


def is_export_of(model: ModelPaths, answer: Answer) -> bool:
    """True if the directory holds the model that the answer describes."""
    try:
        card = json.loads(model.card.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    wanted = answer.combination.as_values()
    if needs_program(card) and not model.unknown.is_file():
        return False
    return model.is_whole and all(card.get(name) == value for name, value in wanted.items())
