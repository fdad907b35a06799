"""tune.py --synthetic: which folders a space takes, what study.json keeps, and what ends in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tune
from cluster.study.config import StudyConfig
from cluster.study.directory import open_study
from contract.synthetic_images import SyntheticClass, SyntheticImages, image_name
from tests.tiny_data import write_images
from wiring.plan import make_plan
from wiring.search import paths_on_nodes, read_images, study_facts


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def make_config(images: Path, synthetic: Path | None, **changes: Any) -> StudyConfig:
    values: dict[str, Any] = {
        "space": "synthetic",
        "data": str(images),
        "backbones": ("lite0",),
        "image_size": 32,
        "synthetic": synthetic and str(synthetic),
        "runs_dir": images.parent / "runs",
        "cache_dir": images.parent / "cache",
        "study": "s",
    }
    return StudyConfig(**values | changes)


def write_synthetic(folder: Path, *, number: int = 4) -> Path:
    """Images of class red, as another generator leaves them."""
    source = write_images(folder.parent / f"{folder.name}-source", images_per_class=number, side=33)
    folder.mkdir()
    (source / "red").rename(folder / "red")
    return folder


def save_list(folder: Path, fingerprint: str, *, seed: int = 0, number: int = 4) -> None:
    for place, path in enumerate(sorted((folder / "red").iterdir())):
        path.rename(path.with_name(image_name(place)))
    SyntheticImages(
        source="images",
        fingerprint=fingerprint,
        split_seed=seed,
        image_size=33,
        generator="a GAN",
        seed=0,
        classes=(SyntheticClass(name="red", folder="red", images=number),),
    ).save(folder)


def test_a_study_keeps_what_it_was_given_and_its_own_images_stay_those_without(
    images: Path, tmp_path: Path
) -> None:
    folder = write_synthetic(tmp_path / "made")
    bare = make_plan(make_config(images, None, space="demo"))
    save_list(folder, read_images(bare)[0].fingerprint)

    plan = make_plan(make_config(images, folder))
    manifest, found = read_images(plan)
    facts = study_facts(plan, manifest, found)["data"]

    assert facts["synthetic"]["images"] == {"red": 4}
    assert facts["synthetic"]["generator"] == "a GAN"
    assert (facts["num_train"], len(manifest)) == (25, 36)
    assert plan.num_synthetic == 4
    assert ("--synthetic", str(folder)) in paths_on_nodes(plan.config)


def test_no_synthetic_images_are_tried_first_and_then_all_of_them(images: Path, tmp_path: Path) -> None:
    plan = make_plan(make_config(images, write_synthetic(tmp_path / "made")))

    first, second = (recipe.config for recipe in plan.recipes[:2])

    assert first["synthetic_share"] == 0.0
    assert second == first | {"synthetic_share": 1.0}


@pytest.mark.parametrize("other", ["none", "more", "moved"])
def test_a_study_goes_on_with_the_same_images_wherever_they_lie_and_with_no_others(
    images: Path, tmp_path: Path, other: str
) -> None:
    folder = write_synthetic(tmp_path / "made")
    plan = make_plan(make_config(images, folder))
    open_study(plan.config, facts=study_facts(plan, *read_images(plan))).close()
    if other == "more":
        again = make_plan(make_config(images, write_synthetic(tmp_path / "more", number=5)))
    elif other == "moved":
        again = make_plan(make_config(images, folder.rename(tmp_path / "elsewhere")))
    else:
        again = make_plan(make_config(images, None, space="demo"))
    facts = study_facts(again, *read_images(again))

    if other == "moved":
        open_study(again.config, facts=facts).close()
        return
    expected = r"synthetic \(.*made, 4 images, \w+ -> " + ("none" if other == "none" else ".*5 images")
    with pytest.raises(ValueError, match=expected):
        open_study(again.config, facts=facts)


def test_images_of_another_split_are_refused(images: Path, tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / "made")
    save_list(folder, "0" * 16, seed=5)

    with pytest.raises(ValueError, match=r"with --seed 5, not 0 .*make them anew with"):
        read_images(make_plan(make_config(images, folder)))


def test_an_image_that_cannot_be_read_is_named(images: Path, tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / "made")
    (folder / "red" / "99.png").write_bytes(b"no image")

    with pytest.raises(ValueError, match=r"--synthetic: 1 of 5 images cannot be read: .*99.png"):
        read_images(make_plan(make_config(images, folder)))


@pytest.mark.parametrize(
    ("space", "gives_folder", "expected"),
    [
        ("synthetic", False, "pass their folder with --synthetic DIR"),
        ("demo", True, "--space demo never adds synthetic images: pass --space synthetic"),
    ],
)
def test_space_and_flag_need_each_other(
    images: Path,
    tmp_path: Path,
    space: str,
    gives_folder: bool,
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--synthetic", str(write_synthetic(tmp_path / "made"))] if gives_folder else []
    flags = ["--space", space, "--data", str(images), "--backbones", "lite0", "--dry-run", *given]

    code = tune.main([*flags, "--runs-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache")])

    error = capsys.readouterr().err
    assert code == 2
    assert expected in error
    assert len(error.strip().splitlines()) == 1


def test_the_dry_run_says_what_would_be_added(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Inside the data, whose class it must not become.
    folder = write_synthetic(tmp_path / "made").rename(images / "made by another")
    flags = ["--space", "synthetic", "--data", str(images), "--backbones", "lite0", "--dry-run"]

    code = tune.main(
        [
            *flags,
            *("--synthetic", str(folder)),
            *("--runs-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache")),
        ]
    )

    said = capsys.readouterr().out
    assert code == 0
    assert "synthetic: 4 images, for training only: red 4" in said
    assert "3 classes" in said
