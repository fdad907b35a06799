"""A model in another format answers as its program does, or is refused, and is added wholly or not at all."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import timm
import torch
from rich.console import Console

from contract.answer import Combination, MemberRef, Pooling
from contract.messages import StudySettings
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths
from contract.unknown_score import DistanceScore
from serving.backends.onnx import OnnxBackend
from serving.backends.timm_folder import TimmBackend
from tests.tiny_data import make_settings
from tests.trained_members import combine, train_members, validation_images
from trainables.export import format_parity
from trainables.export.cascade import load_cascade
from trainables.export.format_parity import compare
from trainables.export.program import make_checked_program, make_program, write_program
from trainables.export.split_predictions import write_flipped_predictions
from trainables.export.unknown_program import UnknownScorer
from wiring import model_formats
from wiring.model_formats import FormatAdder, check_libraries, list_formats, telling_lost_formats

FROZEN = {"regime": "linear_probe", "unfreeze_depth": 0}
MEMBERS: tuple[Mapping[str, Any], ...] = (
    FROZEN,
    {**FROZEN, "learning_rate": 1e-2, "head_batch_norm": True, "dropout": 0.2},
    {"unfreeze_depth": 1},
    {"regime": "knn", "unfreeze_depth": 0, "num_neighbours": 3},
    {"backbone": "linear_pixels", **FROZEN},
    {**FROZEN, "head_width": 8},
    {**FROZEN, "head_pooling": "flatten"},
)
PLAIN, NORMED, DEEPER, NEIGHBOURS, PIXELS, HIDDEN, MAPS = (
    MemberRef("trial", number) for number in range(len(MEMBERS))
)
SINGLE = combine(PLAIN, temperature=0.5)
ODD_CLASSES = ('ro"se, red', "läx\n\\", "猫 <b>&amp;")
Study = tuple[StudySettings, dict[MemberRef, dict[str, Any]]]


class Programs(NamedTuple):
    """Exported models, which tests copy."""

    folder: Path
    made: dict[Combination, ModelPaths]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    settings = make_settings(tmp_path_factory.mktemp("study"), fits=("crop",))
    configs = train_members(settings, *MEMBERS)
    write_flipped_predictions([PLAIN], configs, settings)
    return replace(settings, classes=ODD_CLASSES), configs


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Where the program of each combination lies that a test has exported: an export takes seconds."""
    return Programs(tmp_path_factory.mktemp("programs"), {})


@pytest.fixture
def said() -> list[str]:
    return []


def export(study: Study, programs: Programs, folder: Path, combination: Combination) -> ModelPaths:
    """A copy in `folder` of the model of a combination, which is exported for the first test alone."""
    settings, configs = study
    if combination not in programs.made:
        made = ModelPaths(programs.folder / str(len(programs.made)))
        program = make_checked_program(combination, configs, settings)
        program.write(settings, target=made, about=combination.as_values())
        programs.made[combination] = made
    return ModelPaths(shutil.copytree(programs.made[combination].directory, folder / "model"))


def make_adder(study: Study, model: ModelPaths, said: list[str]) -> FormatAdder:
    settings, configs = study
    return FormatAdder(model=model, settings=settings, configs=configs, say=said.append)


def add(study: Study, model: ModelPaths, said: list[str], *formats: str) -> bool:
    return make_adder(study, model, said).add(formats, Console(quiet=True))


def read_card(model: ModelPaths) -> dict[str, Any]:
    card: dict[str, Any] = json.loads(model.card.read_text(encoding="utf-8"))
    return card


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Content of every file below a folder, with the moment of its writing."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@pytest.mark.parametrize(
    "combination",
    [
        SINGLE,
        combine(PLAIN, NORMED, HIDDEN, DEEPER, pooling=Pooling.LOGITS, temperature=2.0),
        combine(PLAIN, PIXELS, DEEPER),
        combine(PLAIN, MemberRef("trial", 0, "flip")),
        combine(NEIGHBOURS),
        combine(PLAIN, NEIGHBOURS),
        combine(MAPS),
    ],
    ids=["single", "one prefix", "two backbones", "mirrored", "neighbours", "with neighbours", "flattened"],
)
def test_onnx_answers_as_the_program_for_any_number_of_images(
    study: Study,
    programs: Programs,
    tmp_path: Path,
    said: list[str],
    combination: Combination,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = export(study, programs, tmp_path, combination)

    assert add(study, model, said, "onnx"), said

    program = torch.export.load(model.program).module()
    backend = OnnxBackend(model, ModelCard.load(model), model.onnx, threads=1)
    images = validation_images(*study)
    for number in (1, 2, 7):
        batch = images[:number]
        expected = program(batch).detach().numpy()
        assert np.abs(backend.probabilities(batch.numpy()) - expected).max() < 1e-5
    facts = read_card(model)["formats"]["onnx"]
    assert (facts["images"], facts["changed_labels"]) == (len(images), 0)
    assert facts["largest_difference"] < 1e-5
    assert said[0].startswith("onnx: model.onnx, ")
    assert capfd.readouterr() == ("", "")  # whatever exporters warn of


@pytest.mark.parametrize(
    "combination",
    [
        SINGLE,
        combine(NORMED, temperature=3.0),
        combine(DEEPER),
        combine(PLAIN, NORMED, pooling=Pooling.LOGITS, weights=(0.3, 0.7), temperature=2.0),
    ],
    ids=["temperature", "batch norm", "deeper", "linear heads on one prefix"],
)
def test_timm_loads_the_folder_without_our_code_and_gives_the_same_probabilities(
    study: Study, programs: Programs, tmp_path: Path, said: list[str], combination: Combination
) -> None:
    model = export(study, programs, tmp_path, combination)

    assert add(study, model, said, "timm"), said

    loaded: Any = timm.create_model(f"local-dir:{model.timm}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(loaded)
    images = validation_images(*study)
    mean, std = (torch.tensor(config[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        found = loaded((images - mean) / std).softmax(dim=1).numpy()
        expected = torch.export.load(model.program).module()(images).numpy()
    backend = TimmBackend(model, ModelCard.load(model), device="cpu")
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(backend.probabilities(images.numpy()) - expected).max() < 1e-5
    assert loaded.num_classes == 3
    assert list(loaded.pretrained_cfg["label_names"]) == list(ODD_CLASSES)
    assert tuple(config["input_size"]) == (3, 32, 32)
    assert (config["crop_mode"], config["interpolation"]) == ("center", "bilinear")
    assert config["crop_pct"] == pytest.approx(32 / 37)
    assert read_card(model)["formats"]["timm"]["largest_difference"] < 1e-5


@pytest.mark.parametrize(
    ("combination", "reason"),
    [
        (combine(HIDDEN), "its head has hidden layers"),
        (combine(NEIGHBOURS), "its head is nearest neighbours"),
        (combine(PIXELS), "its backbone linear_pixels is no network of timm"),
        (combine(MAPS), "its head takes the maps, not the pooled features"),
        (combine(MemberRef("trial", 0, "flip")), "it looks at the mirrored image, too"),
        (combine(PLAIN, NORMED), "it is an ensemble whose probabilities are averaged"),
        (
            combine(PLAIN, DEEPER, pooling=Pooling.LOGITS),
            "it is an ensemble of backbones that were trained apart",
        ),
        (combine(PLAIN, PIXELS, pooling=Pooling.LOGITS), "linear_pixels is no network of timm"),
    ],
)
def test_what_timm_cannot_hold_is_refused_by_name(
    study: Study, programs: Programs, tmp_path: Path, said: list[str], combination: Combination, reason: str
) -> None:
    model = export(study, programs, tmp_path, SINGLE)
    card = read_card(model) | combination.as_values()  # a refusal reads the card and the weights alone
    model.card.write_text(json.dumps(card), encoding="utf-8")
    before = files_of(model.directory)

    assert not add(study, model, said, "timm")

    (line,) = said
    assert line.startswith("timm: refused: the model is no single network with one linear layer: ")
    assert reason in line
    assert files_of(model.directory) == before


def test_int8_stands_within_its_margin_and_says_what_it_costs(
    study: Study, programs: Programs, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = export(study, programs, tmp_path, combine(PLAIN, DEEPER))
    for name in ("MOST_CHANGED", "MOST_LOST", "MOST_LOSS"):
        monkeypatch.setattr(format_parity, name, 1.0)  # images of noise at 32 pixels

    assert add(study, model, said, "onnx", "int8")

    facts = read_card(model)["formats"]["int8"]
    split = {row.split(",")[3] for row in study[0].paths.manifest.read_text().splitlines()}
    assert "train" in split
    assert 0 < facts["calibration_images"] <= 256
    assert facts["images"] == len(validation_images(*study))
    assert model.int8.stat().st_size < 0.35 * model.onnx.stat().st_size
    operations = {node.op_type for node in onnx.load(model.int8).graph.node}
    assert "QuantizeLinear" in operations
    backend = OnnxBackend(model, ModelCard.load(model), model.int8, device="cpu")
    for number in (1, 7):
        found = backend.probabilities(np.random.default_rng(0).random((number, 3, 32, 32), np.float32))
        assert np.allclose(found.sum(axis=1), 1, atol=1e-5)
    assert "accuracy" in said[1]


def test_int8_outside_its_margin_is_refused_with_its_figures(
    study: Study, programs: Programs, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = export(study, programs, tmp_path, combine(DEEPER))
    monkeypatch.setattr(format_parity, "MOST_LOSS", -10.0)

    assert not add(study, model, said, "int8", "onnx")

    assert [line.split(":")[0] for line in said] == ["onnx", "int8"]
    assert said[1].startswith("int8: refused: ")
    assert "log-loss by " in said[1]
    assert list(read_card(model)["formats"]) == ["onnx"]
    assert not model.int8.exists()
    assert model.find_changed() == []


def check_onnx_file(model: ModelPaths) -> None:
    """It names its classes and shapes, and nothing of where it was made."""
    written = onnx.load(model.onnx, load_external_data=False)
    onnx.checker.check_model(written, full_check=True)
    metadata = {one.key: json.loads(one.value) for one in written.metadata_props}
    assert metadata["classes"] == list(ODD_CLASSES)
    assert metadata["image_size"] == 32
    (images,), (probabilities,) = written.graph.input, written.graph.output
    assert (images.name, probabilities.name) == ("images", "probabilities")
    shapes = [
        [one.dim_param or one.dim_value for one in v.type.tensor_type.shape.dim]
        for v in (images, probabilities)
    ]
    assert shapes == [["N", 3, 32, 32], ["N", 3]]
    content = model.onnx.read_bytes()
    assert not any(word in content for word in (b"trainables", b".py", str(Path.cwd()).encode()))
    assert [path.name for path in model.directory.glob("*.onnx*")] == ["model.onnx"]


def test_the_same_formats_again_are_there_already(
    study: Study, programs: Programs, tmp_path: Path, said: list[str]
) -> None:
    model = export(study, programs, tmp_path, SINGLE)
    digests = model.digest(), model.identity()
    add(study, model, said, "onnx", "timm")
    check_onnx_file(model)
    before = files_of(model.directory)

    assert add(study, model, said, "timm", "onnx", "onnx")

    assert said[2:] == ["onnx: is there already, of this model", "timm: is there already, of this model"]
    assert files_of(model.directory) == before
    assert (model.digest(), model.identity()) == digests
    assert model.find_changed() == []
    model.onnx.write_bytes(b"torn")
    assert add(study, model, said, "onnx", "timm")
    assert said[5].startswith("onnx: model.onnx, ")
    assert model.onnx.read_bytes() == before["model.onnx"][1]
    assert model.find_changed() == []


def test_a_kill_leaves_the_model_as_it_was_and_the_next_run_adds_the_formats(
    study: Study, programs: Programs, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = export(study, programs, tmp_path, SINGLE)
    before = files_of(model.directory)

    def die(_: ModelPaths) -> None:
        os._exit(9)

    child = os.fork()
    if not child:
        monkeypatch.setattr(ModelPaths, "write_checksums", die)
        torch.set_num_threads(1)
        place_made_file(make_adder(study, model, []), tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

    assert files_of(model.directory) == before
    assert list(tmp_path.glob(".model.*.part"))
    assert add(study, model, said, "onnx")
    assert not list(tmp_path.glob(".model.*.part"))
    assert model.find_changed() == []


def place_made_file(adder: FormatAdder, folder: Path) -> None:
    made = folder / "made"
    (made / "onnx").mkdir(parents=True)
    (made / "onnx" / "model.onnx").write_bytes(b"made")
    adder._place({"onnx": {"files": {"model.onnx": "0"}}}, made)


def test_the_program_for_unknown_classes_becomes_onnx_too(
    study: Study, programs: Programs, tmp_path: Path, said: list[str]
) -> None:
    model = export(study, programs, tmp_path, SINGLE)
    random = np.random.default_rng(0)
    parts = DistanceScore(
        means=random.normal(size=(3, 12)).astype(np.float32),
        whitening=random.normal(size=(12, 12)).astype(np.float32),
        scales=((-0.9, 0.2), (1.0, 0.3)),
    )
    features = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    batch = {0: torch.export.Dim("images", min=1, max=64)}
    scorer = torch.export.export(
        UnknownScorer(features, parts).eval(),
        (torch.rand(2, 3, 32, 32), torch.full((2, 3), 1 / 3)),
        dynamic_shapes={"images": batch, "probabilities": batch},
    )
    torch.export.save(scorer, model.unknown)
    thresholds = {"unknown": {"score": "both", "threshold": 0.0}}
    model.card.write_text(json.dumps(read_card(model) | {"thresholds": thresholds}), encoding="utf-8")

    assert add(study, model, said, "onnx"), said

    backend = OnnxBackend(model, ModelCard.load(model), model.onnx)
    for number in (1, 2, 7):
        images = random.random((number, 3, 32, 32), np.float32)
        probabilities = backend.probabilities(images)
        expected = scorer.module()(torch.from_numpy(images), torch.from_numpy(probabilities))
        assert np.abs(backend.scores(images, probabilities) - expected.numpy()).max() < 1e-4
    facts = read_card(model)["formats"]["onnx"]
    assert set(facts["files"]) == {"model.onnx", "unknown.onnx"}
    assert facts["largest_score_difference"] < 1e-4


def test_a_cascade_becomes_onnx_and_is_refused_as_a_timm_folder(
    study: Study, programs: Programs, tmp_path: Path, said: list[str]
) -> None:
    settings, _ = study
    two = ModelPaths(tmp_path / "two")
    second = export(study, programs, tmp_path / "second", combine(DEEPER))
    write_program(
        make_program(TwoOfThree(second), 32), settings, fit="crop", target=two,
        about={"classes": ["one", "rest"]},
    )  # fmt: skip
    module, shared = load_cascade(two, second, one=0, order=(0, 1, 2, 3))
    model = ModelPaths(tmp_path / "model")
    write_program(
        make_program(module, 32), settings, fit=shared["fit"], target=model, about={"rule": "cascade"}
    )
    adder = FormatAdder(
        model=model, settings=settings, say=said.append, find_labels=lambda ids: np.zeros(len(ids), np.int64)
    )

    assert not adder.add(("onnx", "timm"), Console(quiet=True))

    assert said[0].startswith("onnx: model.onnx, ")
    assert said[1].endswith("it is a cascade")
    backend = OnnxBackend(model, ModelCard.load(model), model.onnx)
    images = validation_images(*study)[:7]
    expected = torch.export.load(model.program).module()(images).detach().numpy()
    assert expected.shape == (7, 4)
    assert np.abs(backend.probabilities(images.numpy()) - expected).max() < 1e-5


class TwoOfThree(torch.nn.Module):
    """A model of two classes: the first of three, and the rest."""

    def __init__(self, model: ModelPaths) -> None:
        super().__init__()
        self.inner = torch.export.load(model.program).module()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        three = self.inner(images)
        return torch.stack([three[:, 0], 1 - three[:, 0]], dim=1)


def test_formats_lost_with_a_model_are_named_unless_they_are_asked_for(
    study: Study, programs: Programs, tmp_path: Path, said: list[str]
) -> None:
    model = export(study, programs, tmp_path, SINGLE)
    card = {**read_card(model), "formats": {"onnx": {}, "int8": {}, "timm": {}}}
    for asked in ((), ("onnx", "timm", "int8"), ("onnx",)):
        model.card.write_text(json.dumps(card), encoding="utf-8")
        with telling_lost_formats(model, said.append, asked=asked):
            model.card.write_text(json.dumps(card | {"formats": {}}), encoding="utf-8")

    gone = "exported formats of the earlier model are gone: finalize.py --export"
    assert said == [f"{gone} onnx int8 timm adds them again", f"{gone} int8 timm adds them again"]
    assert list_formats(ModelPaths(tmp_path / "none")) == []


def test_a_model_of_more_than_two_gigabytes_is_refused(
    study: Study, programs: Programs, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainables.export import onnx_program

    model = export(study, programs, tmp_path, SINGLE)
    monkeypatch.setattr(onnx_program, "LARGEST", 1_000_000)

    assert not add(study, model, said, "onnx")

    assert said[0].startswith("onnx: refused: the weights take 0.0 GB, and one ONNX file holds 2 GB")


@pytest.mark.parametrize("name", ["onnx", "int8"])
def test_a_missing_library_is_told_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        model_formats.importlib.util,
        "find_spec",
        lambda module: None if module.startswith("onnx") else find(module),
    )

    with pytest.raises(ValueError, match=f"--export {name} needs onnx, onnxscript, .* 'unfreeze\\[onnx\\]'"):
        check_libraries(["timm", name])
    check_libraries(["timm"])


def test_an_operating_point_decides_which_labels_change() -> None:
    program = np.array([[0.6, 0.4], [0.7, 0.3]])
    found = np.array([[0.62, 0.38], [0.7, 0.3]])
    labels = np.array([1, 0])

    assert compare(program, found, labels).changed_labels == 0
    agreement = compare(program, found, labels, operating_point=0.39)

    assert agreement.changed_labels == 1
    assert agreement.accuracy_lost == pytest.approx(0.5)
    with pytest.raises(ValueError, match="1 of 2 validation images get another label"):
        agreement.check_equal()
