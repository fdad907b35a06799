"""Parts of the speed comparison: drawing inputs, counting spans, comparing runs, refusing wrong flags."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling, search
from benchmarks.versus_plain import measured_trial, plain_ray_tune
from benchmarks.versus_plain.figures import compare_runs, make_table, profile_rows
from benchmarks.versus_plain.inputs import (
    NUM_STAGES,
    Case,
    distinct_views,
    draw_images,
    draw_trials,
    joint_space,
    published_recipes,
)
from benchmarks.versus_plain.measured_trial import CALLS, PREFIX, SEVERAL_DEPTHS, Spans, _find, add_up
from benchmarks.versus_plain.shared_search import floor_seconds, gap_seconds
from benchmarks.versus_plain.sides import PlainRuns, SideFailed, Sides, hardware, run_process
from benchmarks.versus_plain.special_cases import scaled_seconds
from cluster.study.records import EpochRecord
from contract.messages import EpochDecision
from tests.tiny_data import write_images

TRIALS = draw_trials(4, depths=(0,), policies=("light",), seed=1)
IMAGES = {"train": [["a", 0], ["b", 1], ["c", 0], ["d", 1]], "val": [["e", 0], ["f", 1]]}


def make_run(seconds: float, accuracies: list[float], **changes: Any) -> dict[str, Any]:
    names = ("orchestration_seconds_a_trial", "floor_seconds", "first_report_seconds")
    trials = [{"val_accuracy": accuracy, "error": None} for accuracy in accuracies]
    run = {"seconds": seconds, "command_seconds": seconds + 1, "trials": trials, "cache": {"hits": 1.0}}
    return {**dict.fromkeys(names, 0.5), **run, **changes}


MEASURED = [call[:2] for call in CALLS] + [
    ("trainables.images.split_view", "ViewSettings.images"),
    ("trainables.model.classifier", "Classifier.prefix_features"),
    ("trainables.model.frozen_prefixes", "Ladder.climb"),
]


class CountedSides(Sides):
    """Sides whose plain runs take no time and are counted."""

    num_plain = 0

    def plain(self, trials: Any, *, label: str) -> dict[str, Any]:
        self.num_plain += 1
        return make_run(float(self.num_plain), [0.5] * len(trials))


def make_sides(folder: Path, **changes: Any) -> CountedSides:
    given: dict[str, Any] = {"image_size": 32, "epochs": 1, "cpus": 2} | changes
    return CountedSides(folder=folder, images=IMAGES, **given)


def test_every_class_gives_the_same_number_of_images_and_no_image_is_in_both_splits(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", images_per_class=12)

    drawn = draw_images(str(folder), num_images=30, seed=0)

    assert Counter(label for _, label in drawn["train"]) == {0: 8, 1: 8, 2: 8}
    assert Counter(label for _, label in drawn["val"]) == {0: 2, 1: 2, 2: 2}
    assert len({path for rows in drawn.values() for path, _ in rows}) == 30
    assert drawn == draw_images(str(folder), num_images=30, seed=0)
    assert drawn != draw_images(str(folder), num_images=30, seed=1)


def test_too_few_images_are_refused_with_the_class_that_lacks_them(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", images_per_class=3)

    with pytest.raises(ValueError, match="class blue has 3 images, 4 are wanted"):
        draw_images(str(folder), num_images=12, seed=0)


@pytest.mark.parametrize("depths", [(0,), (0, 1, 2, 3), tuple(range(NUM_STAGES + 1))])
def test_a_longer_list_of_trials_begins_with_the_shorter_one(depths: tuple[int, ...]) -> None:
    shorter, longer = (draw_trials(n, depths=depths, policies=("light",), seed=1) for n in (16, 256))

    assert longer[:16] == shorter
    assert len({json.dumps(trial) for trial in longer}) == 256


def test_depths_are_spread_evenly_over_a_list() -> None:
    trials = draw_trials(16, depths=(0, 1, 2, 3), policies=("light",), seed=1)

    assert Counter(trial["unfreeze_depth"] for trial in trials) == {0: 4, 1: 4, 2: 4, 3: 4}


def test_what_trains_deeper_learns_more_slowly() -> None:
    trials = draw_trials(90, depths=(0, 3, 8), policies=("light",), seed=1)

    highest = {
        depth: max(trial["learning_rate"] for trial in trials if trial["unfreeze_depth"] == depth)
        for depth in (0, 3, 8)
    }

    assert 1e-2 >= highest[0] > highest[3] > highest[8]


@pytest.mark.slow
def test_the_plain_side_has_as_many_stages_as_the_cases_say() -> None:
    def frozen(depth: int) -> int:
        model = plain_ray_tune.make_model(2, unfreeze_depth=depth, dropout=0.0)
        return sum(not parameter.requires_grad for parameter in model.parameters())

    assert frozen(NUM_STAGES) == 0
    assert frozen(NUM_STAGES - 1) > 0


def test_a_view_counts_once_for_all_trials_of_a_depth() -> None:
    trials = draw_trials(32, depths=(0, 2), policies=("light", "none"), seed=1)

    by_depth, views = distinct_views(trials, IMAGES, epochs=3)

    assert {trial["policy"] for trial in trials} == {"light", "none"}
    assert views == 2 + 4 * (3 + 1)
    assert by_depth == {0: views, 2: views}


def test_recipes_outside_the_space_are_no_recipes() -> None:
    depths = [recipe["unfreeze_depth"] for recipe in published_recipes(joint_space((0, 4), ("light",)))]

    assert depths == [0, 4]
    assert len(published_recipes(joint_space((0, 1), ("light",)))) == 1


def test_the_plain_side_is_scaled_and_accuracies_are_compared_over_what_both_ran() -> None:
    case = Case(name="frozen32", num_trials=4, depths=(0,), target=40)
    plain = [make_run(10.0, [0.5, 0.7]), make_run(12.0, [0.5, 0.7]), make_run(11.0, [0.6, 0.6])]
    ours = [make_run(2.0, [0.6, 0.7, 0.9, 0.1]), make_run(1.0, [0.5, 0.7, 0.9, 0.1])]

    figures = compare_runs(case, plain, ours)

    assert figures["plain_seconds"] == {"median": 22.0, "least": 20.0, "most": 24.0}
    assert figures["ratio"] == {"median": round(22 / 1.5, 2), "least": 10.0, "most": 24.0}
    assert figures["accuracy"]["ours_best"]["median"] == 0.7  # trials 2 and 3 have no counterpart
    assert figures["accuracy"]["difference_mean"] == pytest.approx(0.025)
    assert make_table([figures]).row_count > 10


class Clock:
    """A clock that only `pass_time` moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    thread_time = perf_counter

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(measured_trial, "time", made)
    return made


def test_spans_count_their_time_without_that_of_spans_inside(clock: Clock) -> None:
    spans = Spans()

    def inner(images: list[int]) -> None:
        clock.pass_time(3.0)

    timed = spans.timed(lambda images: f"inner {len(images)}", inner, count=lambda images: len(images))
    with spans.span("outer"):
        clock.pass_time(1.0)
        timed([1, 2])
        timed([1, 2])

    totals = spans.as_dict()
    assert totals["inner 2"]["seconds"] == 6.0
    assert totals["inner 2"]["calls"] == 2
    assert totals["inner 2"]["rows"] == 4
    assert totals["outer"]["seconds"] == 1.0
    assert add_up([totals, totals])["inner 2"]["rows"] == 8


@pytest.mark.parametrize(("module", "name"), MEASURED)
def test_every_call_that_is_measured_exists(module: str, name: str) -> None:
    owner, attribute = _find(module, name)

    assert callable(getattr(owner, attribute))


def test_gaps_are_what_a_started_worker_did_not_compute() -> None:
    def row(arrival: float, seconds: float) -> EpochRecord:
        metrics = {"epoch_seconds": seconds}
        return EpochRecord(
            trial=0, epoch=1, attempt=1, metrics=metrics, arrival=arrival, decision=EpochDecision.CONTINUE
        )

    # The first step of a group: two reports at once, whose seconds lie before the first arrival.
    rows = [row(100.0, 9.0), row(100.001, 9.0), row(102.0, 1.5), row(103.0, 0.7)]

    assert gap_seconds({"a:1": rows, "a:2": [row(50.0, 5.0)]}) == pytest.approx(0.799)


def test_the_floor_counts_a_frozen_part_once_for_each_distinct_view() -> None:
    spans = {
        f"{PREFIX}depth 0": {"seconds": 20.0, "rows": 28.0},
        "augmenting": {"seconds": 2.0, "rows": 28.0},
        "training suffix and head": {"seconds": 3.0},
        "validating suffix and head": {"seconds": 1.0},
    }

    # 14 distinct images went through twice; two slots.
    floor = floor_seconds(spans, TRIALS, IMAGES, epochs=3, slots=2)

    assert floor == pytest.approx((10.0 + 1.0 + 3.0 + 1.0) / 2)


def test_the_floor_counts_a_pass_for_several_depths_once_for_each_view() -> None:
    spans = {
        SEVERAL_DEPTHS: {"seconds": 8.0, "rows": 28.0},
        f"{PREFIX}depth 0": {"seconds": 1.0, "rows": 14.0},
    }

    assert floor_seconds(spans, TRIALS, IMAGES, epochs=3, slots=1) == pytest.approx(4.0)


def test_a_generator_s_steps_are_measured_and_what_happens_between_them_is_not(clock: Clock) -> None:
    spans = Spans()

    def climb(images: list[int]) -> Iterator[int]:
        for image in images:
            clock.pass_time(1.0)
            yield image

    steps = spans.timed_steps("climb", climb, count=len)
    for _ in steps([1, 2]):
        clock.pass_time(5.0)

    total = spans.as_dict()["climb"]
    assert total["seconds"] == 2.0
    assert total["rows"] == 2


def test_what_a_profile_says_of_workers_adds_up_to_all_slots() -> None:
    span = {"seconds": 2.0, "cpu_seconds": 1.0}
    run = {
        "driver": {"decoding images": span, "opening the study": span, "proposing": span},
        "workers": {"imports": span, f"{PREFIX}0": span, f"{PREFIX}3": span},
        "ray_start_seconds": 1.0,
        "closing_seconds": 0.1,
        "worker_start_seconds": 4.0,
        "window_seconds": 20.0,
    }

    rows = {row["what"]: row["seconds"] for row in profile_rows(run) if row["where"] == "workers"}

    assert rows.pop("all slots until the last result") == 20.0
    assert sum(rows.values()) == pytest.approx(20.0)
    assert rows["frozen prefixes"] == 4.0


def test_only_what_follows_the_first_report_is_scaled() -> None:
    assert scaled_seconds(make_run(50.0, [0.5], first_report_seconds=10.0), 2.0) == 90.0


def test_cases_that_begin_with_the_same_trials_share_their_plain_runs(tmp_path: Path) -> None:
    sides = make_sides(tmp_path)
    plain_runs = PlainRuns(sides, repeats=2)

    for repeat in range(3):
        for _ in ("frozen32", "frozen256"):
            runs = plain_runs.listed(TRIALS, repeat=repeat, label="")

    assert sides.num_plain == len(runs) == 2
    plain_runs.listed(TRIALS[:2], repeat=0, label="")
    assert sides.num_plain == 3


def test_an_earlier_command_s_plain_runs_are_taken_if_nothing_differs(tmp_path: Path) -> None:
    file = tmp_path / "search.json"
    first = PlainRuns(make_sides(tmp_path), repeats=1)
    first.listed(TRIALS, repeat=0, label="")
    file.write_text(json.dumps({"hardware": hardware(), "plain_runs": first.runs}))

    same, other = make_sides(tmp_path), make_sides(tmp_path, epochs=2)
    reused = PlainRuns(same, repeats=1, reuse=file)
    assert reused.listed(TRIALS, repeat=0, label="") == next(iter(first.runs.values()))
    assert (same.num_plain, reused.earlier_file(TRIALS)) == (0, str(file))
    PlainRuns(other, repeats=1, reuse=file).listed(TRIALS, repeat=0, label="")
    assert other.num_plain == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not a file that --json wrote"),
        ('{"hardware": {}}', "not a file that --json wrote"),
        ('{"hardware": {"processor": "abacus", "cpus": 2}, "plain_runs": {}}', "another machine"),
    ],
)
def test_plain_runs_that_cannot_be_used_are_refused(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "search.json"
    file.write_text(content)

    with pytest.raises(ValueError, match=complaint):
        PlainRuns(make_sides(tmp_path), repeats=1, reuse=file)


def test_a_side_that_fails_says_its_last_lines(tmp_path: Path) -> None:
    code = "import sys; print('{\"seconds\": 1}'); print('no disk', file=sys.stderr); sys.exit(3)"

    with pytest.raises(SideFailed, match=r"exit code 3(.|\n)*no disk"):
        run_process([sys.executable, "-c", code], log=tmp_path / "side.log")


def test_a_side_that_prints_no_figures_has_failed(tmp_path: Path) -> None:
    with pytest.raises(SideFailed, match="exit code 0"):
        run_process([sys.executable, "-c", "print('done')"], log=tmp_path / "side.log")


def test_the_last_line_of_a_side_is_what_it_found(tmp_path: Path) -> None:
    code = "print('chatter'); print('{\"seconds\": 1.5}')"

    assert run_process([sys.executable, "-c", code], log=tmp_path / "side.log") == {"seconds": 1.5}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--case", "frozen23"], "did you mean frozen32"),
        (["--case", "warm", "--ablate"], "add --case frozen32"),
        (["--data", "nowhere/at/all"], "no such folder"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert search.main(arguments) == 2

    said = capsys.readouterr().err
    assert complaint in said
    assert len(said.splitlines()) == 1


def test_the_cost_of_a_further_trial_is_the_slope_between_two_numbers() -> None:
    few, many = (
        compare_runs(
            Case(name=str(n), num_trials=n, depths=(0,)), [make_run(9, [0.5])], [make_run(s, [0.5] * n)]
        )
        for n, s in ((8, 12.0), (16, 14.0))
    )

    assert scaling.further_seconds(few, many) == 0.25
    assert scaling.make_table([few, many]).row_count == 2
