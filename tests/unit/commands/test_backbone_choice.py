"""--backbones auto: what is judged, what is kept and recorded, and that nothing is computed twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import wiring.backbone_choice
from cluster.study.config import StudyConfig
from contract.messages import Lease, LeasedTrial
from tests.study_factory import make_study
from tests.tiny_data import write_images
from trainables.activations.cache import CacheStats
from trainables.activations.shared import open_cache
from trainables.export.backbone_cost import count_multiply_adds
from trainables.lease import start_lease, take_turns
from trainables.model.backbones import find_backbone
from tune import start
from wiring.backbone_choice import settle_backbones
from wiring.plan import Plan, make_plan
from wiring.search import read_images, settings_of, study_facts


def config_of(folder: Path, *backbones: str, **flags: Any) -> StudyConfig:
    images = folder / "images"
    if not images.exists():
        write_images(images)
    places = {"runs_dir": folder / "runs", "cache_dir": folder / "cache", "data": str(images)}
    usual = {"space": "demo", "image_size": 32, "study": "s", "backbones": backbones}
    return StudyConfig(**usual | places | flags)


def settle(plan: Plan) -> tuple[Plan, dict[str, Any]]:
    manifest, found = read_images(plan)
    settled = settle_backbones(plan, manifest, found)
    return settled, study_facts(settled, manifest, found)


def judged(monkeypatch: pytest.MonkeyPatch, decisions: Mapping[str, bool]) -> None:
    """Let the judges say what they would need hundreds of photos for."""
    real = wiring.backbone_choice.choose_backbones

    def decide(*given: Any, **named: Any) -> Any:
        return [replace(row, kept=decisions[row.name]) for row in real(*given, **named)]

    monkeypatch.setattr(wiring.backbone_choice, "choose_backbones", decide)


def test_what_is_kept_becomes_the_studys_backbones_and_the_table_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, {"lite0": True, "lite1": False})

    plan, facts = settle(make_plan(config_of(tmp_path, "auto", "lite0", "lite1")))

    shown = capsys.readouterr().out
    assert plan.backbone_names == plan.config.backbones == ("lite0",)
    assert [source.backbone for source in plan.weights] == ["lite0"]
    assert {row["name"]: row["kept"] for row in facts["backbone_choice"]} == {"lite0": True, "lite1": False}
    assert facts["backbone_choice"][0]["multiply_adds"] < facts["backbone_choice"][1]["multiply_adds"]
    assert 0 <= facts["backbone_choice"][0]["ridge"]["low"] <= facts["backbone_choice"][0]["ridge"]["value"]
    assert all("lite1" not in str(row) for row in facts["space_table"])
    assert "lite1 is left out" in shown
    json.dumps(facts["backbone_choice"])


def test_a_trial_reads_the_features_that_the_judges_computed(tmp_path: Path) -> None:
    plan = make_plan(config_of(tmp_path, "auto", "lite0", "lite1"))
    manifest, found = read_images(plan)
    plan = settle_backbones(plan, manifest, found)
    plan.config.directory.mkdir(parents=True)
    manifest.write_csv(plan.config.directory / "data.csv")
    facts = study_facts(plan, manifest, found) | {"seed": 0, "direction": "maximize"}
    settings = settings_of(
        plan.config,
        facts,
        resources=plan.resources,
        reuse=plan.expected_reuse,
        num_trials=8,
        weights=plan.weights,
        source=plan.listing.source,
    )
    cache = open_cache(settings.cache_directory, settings.cache_gigabytes)
    assert cache is not None
    before: CacheStats = cache.stats()

    values = {"backbone": "lite0", "unfreeze_depth": 0, "max_epochs": 1}
    lease = Lease(trials=(LeasedTrial(trial=0, attempt=1, config=values, done_epochs=0),))
    [run] = start_lease(lease.as_config(settings.as_values()))
    while not run.finished:
        take_turns([run])

    after = open_cache(settings.cache_directory, settings.cache_gigabytes)
    assert after is cache
    assert cache.stats().chunks_computed == before.chunks_computed
    assert cache.stats().rows_uncached == before.rows_uncached
    assert cache.stats().bytes_read > before.bytes_read


def test_a_continued_study_keeps_its_choice_without_looking_again(tmp_path: Path) -> None:
    rows = [
        {"name": "lite0", "kept": True},
        {"name": "lite1", "kept": False},
        {"name": "lite2", "kept": True},
    ]
    make_study(tmp_path / "runs" / "s", [], backbone_choice=rows)

    plan = make_plan(config_of(tmp_path, "auto", "lite0", "lite1"))

    assert plan.config.backbones == plan.backbone_names == ("lite0", "lite2")
    with pytest.raises(ValueError, match="chose among lite0, lite1, lite2 when it began"):
        make_plan(config_of(tmp_path, "auto", "lite0", "resnet18"))


def test_one_candidate_is_nothing_to_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, facts = settle(make_plan(config_of(tmp_path, "auto")))

    assert plan.config.backbones == ("lite0",)
    assert "backbone_choice" not in facts
    assert "lite0 is the only candidate" in " ".join(capsys.readouterr().out.split())


def test_without_auto_nothing_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(wiring.backbone_choice, "judge")

    plan, facts = settle(make_plan(config_of(tmp_path, "lite0", "lite1")))

    assert plan.backbone_names == ("lite0", "lite1")
    assert "backbone_choice" not in facts


def test_random_weights_cannot_be_judged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="judges pretrained features"):
        settle(make_plan(config_of(tmp_path, "auto", "lite0", "lite1", weights="random")))


def test_a_dry_run_shows_the_table_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = start(config_of(tmp_path, "auto", "lite0", "lite1", dry_run=True))

    shown = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert "ridge probe" in shown
    assert "in a temporary folder" in shown
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "cache").exists()


def test_multiply_adds_are_the_published_ones() -> None:
    """EfficientNet-Lite0 has 407 million at 224 px, of which the classifier's 1.3 million are left out."""
    counted = count_multiply_adds(find_backbone("lite0"), image_size=224)

    assert counted / 1e6 == pytest.approx(407 - 1.3, rel=0.06)
