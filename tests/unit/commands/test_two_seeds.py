"""Two studies made as `tune.py` makes them, which differ in their seed and so in their split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.compare import compare_studies
from analysis.groups import group_leaderboard
from analysis.leaderboard import print_table
from analysis.reading import StudyInfo, load_study
from cluster.search.search import DONE
from cluster.study.directory import open_study
from cluster.study.flags import parse_flags
from cluster.study.warm_start import likeness
from contract.messages import Lease, Outcome, Report
from tests.tiny_data import write_images
from wiring.plan import make_plan
from wiring.search import make_search, read_images, study_facts


def make_real_study(folder: Path, seed: int) -> StudyInfo:
    """A study over real images with real facts; its one trial reports a made-up accuracy."""
    words = ["--space", "demo", "--data", str(folder / "images"), "--study", f"seed-{seed}"]
    words += ["--runs-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache")]
    words += ["--seed", str(seed), "--trials", "1", "--max-epochs", "1", "--image-size", "32"]
    plan = make_plan(parse_flags(words))
    manifest, left_out = read_images(plan)
    study = open_study(plan.config, facts=study_facts(plan, manifest, left_out))
    manifest.write_csv(study.directory / "data.csv")
    search = make_search(plan, study, manifest)
    while (lease := search.next_lease()) is not DONE:
        assert isinstance(lease, Lease)
        (leased,) = lease.trials
        report = Report(trial=leased.trial, attempt=leased.attempt, epoch=1, outcome=Outcome.COMPLETE)
        search.receive([replace(report, metrics={"val_accuracy": 0.5 + seed / 10})])
        search.lease_ended(lease)
    study.close()
    return load_study(study.directory)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[StudyInfo]:
    folder = tmp_path_factory.mktemp("two-seeds")
    write_images(folder / "images", images_per_class=8)
    return [make_real_study(folder, seed) for seed in (0, 1)]


def test_study_json_tells_the_images_from_their_split(studies: list[StudyInfo]) -> None:
    data = [json.loads((one.directory / "study.json").read_text(encoding="utf-8"))["data"] for one in studies]

    assert data[0]["contents"] == data[1]["contents"]
    assert data[0]["fingerprint"] != data[1]["fingerprint"]


def test_studies_that_differ_in_their_seed_are_one_family(studies: list[StudyInfo]) -> None:
    (row,) = group_leaderboard(studies, by="backbone")

    assert row["num_seeds"] == 2
    assert row["val_accuracy"] == pytest.approx(0.55)


def test_another_seed_is_the_same_data_to_a_warm_start(studies: list[StudyInfo]) -> None:
    assert likeness(studies[0].facts["data"], studies[1].facts["data"]) == 1.0


def test_studies_with_other_splits_are_not_tested_image_by_image(
    studies: list[StudyInfo], capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = compare_studies(*studies)["verdict"]
    print_table(studies)

    assert verdict.startswith("the same images, split differently")
    assert "the same images, split differently" in " ".join(capsys.readouterr().out.split())
