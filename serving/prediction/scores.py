"""Counts how often a model is right where the labels are known, and what it mistakes for what."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from contract.files import plural, printable
from contract.intervals import wilson
from contract.model_answers import DEFAULT_COVERAGE
from serving.prediction.rows import Row

FULL_TABLE = 12
"""Most classes whose whole confusion table is shown; of more, the largest confusions."""

MOST_CONFUSIONS, MOST_NAMES = 15, 5
MOST_KEPT = 10_000
"""Most different labels that are kept by name which the model does not know."""

MOST_ERRORS = 20


@dataclass(eq=False)
class Scores:
    """What all rows say together; its size does not grow with their number."""

    classes: Sequence[str]
    has_sets: bool
    coverage: float = DEFAULT_COVERAGE
    from_folders: bool = False
    """The labels are names of folders, which count only if most of them are classes."""

    is_sure: bool = False
    """They count in any case."""

    num_photos: int = 0
    num_errors: int = 0
    num_unknown: int = 0
    num_unlabelled: int = 0
    num_covered: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Photos by (true label, answered label)."""

    strange: Counter[str] = field(default_factory=Counter)
    """Photos by a true label that the model does not know."""

    errors: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._known = frozenset(self.classes)

    def add(self, row: Row, truth: str) -> None:
        """Count a row, whose photo has this label; empty for none."""
        self.num_photos += 1
        if row.error:
            self.num_errors += 1
            if row.error in self.errors or len(self.errors) < MOST_ERRORS:
                self.errors[row.error] += 1
            return
        self.answers[row.label] += 1
        self.num_unknown += row.unknown is True
        if not truth:
            self.num_unlabelled += 1
        elif truth in self._known:
            self.confusion[truth, row.label] += 1
            self.num_covered += truth in row.set
        else:
            name = truth if truth in self.strange or len(self.strange) < MOST_KEPT else "…"
            self.strange[name] += 1

    @property
    def num_labelled(self) -> int:
        """Photos with an answer and a label that the model knows."""
        return self.confusion.total()

    @property
    def num_right(self) -> int:
        return sum(number for (truth, label), number in self.confusion.items() if truth == label)

    @property
    def is_labelled(self) -> bool:
        """Whether labels are known: names of folders are only if those of most photos are classes."""
        if not self.from_folders or self.is_sure:
            return self.num_labelled > 0
        return self.num_labelled > (self.strange.total() + self.num_unlabelled)

    def largest_confusions(self) -> list[tuple[str, str, int]]:
        """(true label, answered label, photos) of mistakes, the most frequent first."""
        wrong = [(*pair, number) for pair, number in self.confusion.items() if pair[0] != pair[1]]
        return sorted(wrong, key=lambda one: (-one[2], one[0], one[1]))

    def shown_classes(self) -> list[str]:
        """Classes of the confusion table: those that occur, in the model's order; [] if they are too many."""
        occurring = {name for pair in self.confusion for name in pair}
        shown = [name for name in self.classes if name in occurring]
        return shown if len(shown) <= FULL_TABLE else []

    def describe(self) -> Iterator[str]:
        """Say in lines what was found."""
        if self.num_errors:
            reasons = ", ".join(
                f"{number} {printable(reason)}" for reason, number in self.errors.most_common(3)
            )
            yield f"{plural(self.num_errors, 'photo')} could not be read: {reasons}"
        if self.num_unknown:
            yield f"{plural(self.num_unknown, 'photo')} look like none of the classes (unknown)"
        if not self.is_labelled:
            if self.strange and not self.from_folders:
                yield f"no label is a class of the model; there are {self._name_strange()}"
            return
        if self.from_folders:
            yield "labels are the names of the photos' folders (--labels none leaves them out)"
        low, high = wilson(self.num_right, self.num_labelled)
        share = self.num_right / self.num_labelled
        yield (
            f"accuracy {share:.2%} (95 % interval {low:.2%} to {high:.2%}): {self.num_right:,} right of"
            f" {plural(self.num_labelled, 'photo')} with a label"
        )
        if self.has_sets:
            held = self.num_covered / self.num_labelled
            yield f"the sets of coverage {self.coverage:g} hold the label of {held:.2%}"
        if self.strange:
            yield (
                f"{plural(self.strange.total(), 'photo')} with a label that the model does not know, not"
                f" counted: {self._name_strange()}"
            )
        if self.num_unlabelled:
            yield f"{plural(self.num_unlabelled, 'photo')} without a label"

    def confusion_rows(self) -> tuple[list[str], list[list[str]]]:
        """The confusion table as (titles, rows): whole, or its largest entries."""
        if shown := self.shown_classes():
            rows = [
                [
                    truth,
                    *(str(self.confusion[truth, label] or "·") for label in shown),
                    self._share_right(truth),
                ]
                for truth in shown
            ]
            return ["true \\ answer", *shown, "right"], rows
        largest = self.largest_confusions()[:MOST_CONFUSIONS]
        return ["true", "answer", "photos"], [[truth, label, str(number)] for truth, label, number in largest]

    def as_values(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        values: dict[str, Any] = {
            "photos": self.num_photos,
            "errors": self.num_errors,
            "unknown": self.num_unknown,
            "answers": {name: self.answers[name] for name in self.classes if self.answers[name]},
        }
        if self.is_labelled:
            low, high = wilson(self.num_right, self.num_labelled)
            accuracy = {"value": self.num_right / self.num_labelled, "low": low, "high": high}
            values["accuracy"] = {**accuracy, "right": self.num_right, "photos": self.num_labelled}
            if self.has_sets:
                share = self.num_covered / self.num_labelled
                values["sets"] = {"coverage": self.coverage, "share_with_label": share}
            values["labels_from"] = "folders" if self.from_folders else "table"
            values["unlabelled"] = self.num_unlabelled
            values["confusion"] = [[*pair, number] for pair, number in sorted(self.confusion.items())]
        if self.strange and (self.is_labelled or not self.from_folders):
            values["labels_not_known"] = dict(self.strange.most_common())
        return values

    def as_line(self, **further: Any) -> str:
        """Everything as one line of JSON."""
        return json.dumps({**self.as_values(), **further}, ensure_ascii=True) + "\n"

    def _share_right(self, truth: str) -> str:
        total = sum(number for (name, _), number in self.confusion.items() if name == truth)
        return f"{self.confusion[truth, truth] / total:.1%}" if total else ""

    def _name_strange(self) -> str:
        named = [f"{printable(name)} ({number:,})" for name, number in self.strange.most_common(MOST_NAMES)]
        more = len(self.strange) - MOST_NAMES
        return ", ".join([*named, *([f"and {more:,} more"] if more > 0 else [])])
