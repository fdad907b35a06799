"""The served classifier: preprocessing equal to the search's, and an MLflow model that answers."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis.tracking import log_model
from analysis.tracking.served_model import ServedClassifier, read_value
from contract.decoding import Fit, decode_square
from contract.model_card import ModelCard
from contract.model_layout import CODE_FILES, ModelPaths
from tests.study_factory import CLASSES, FakeTrial, make_study

SIZE, STORAGE = 16, 18
ROOT = Path(__file__).parents[3]
ASK_THE_MODEL = """
import base64
import json
import sys
from importlib.machinery import PathFinder

root, model, request, reach = sys.argv[1:]
PACKAGES = {"analysis", "cluster", "contract", "search_spaces", "trainables", "wiring", "finalize", "tune"}
sys.path[:] = [entry for entry in sys.path if entry not in ("", root)]
if reach == "in reach":
    sys.path.insert(0, root)
else:  # an editable install finds the checkout through a finder of its own
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
found = [name for name in PACKAGES if PathFinder.find_spec(name) is not None]

import mlflow.pyfunc
import pandas as pd

answer = mlflow.pyfunc.load_model(model).predict(pd.DataFrame(json.loads(request)))
files = {name: sys.modules[name].__file__ for name in sys.modules if name.partition(".")[0] in PACKAGES}
print(json.dumps({"found": found, "label": list(answer["label"]), "files": files}))
"""
"""Loads a logged model with this project in or out of reach; prints its answer and its imports."""


class BrightestChannel(torch.nn.Module):
    """A classifier of red, green and blue."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.mean(dim=(2, 3)) * 20).softmax(dim=1)


@pytest.fixture(scope="module")
def export_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("export")
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(BrightestChannel(), (torch.rand(2, 3, SIZE, SIZE),), dynamic_shapes=shapes)
    torch.export.save(program, directory / "classifier.pt2")
    facts = {"classes": CLASSES, "image_size": SIZE, "storage_size": STORAGE, "fit": "crop"}
    facts |= {"thresholds": {"prediction_sets": {"0.50": 0.6, "0.90": 0.3}}}
    facts |= {"backbone": "lite0", "study": "s", "trial": 0, "metrics": {"val_accuracy": 0.5}}
    (directory / "export.json").write_text(json.dumps(facts), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, export_dir: Path) -> tuple[str, str]:
    """A model that was logged once for all tests that ask it: the address of MLflow, and the model's."""
    folder = tmp_path_factory.mktemp("logged")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return uri, log_model(make_study(folder / "flowers", [FakeTrial()]), export_dir, uri)


def encode_image(
    color: str, *, format: str = "PNG", size: tuple[int, int] = (40, 30), mode: str = "RGB"
) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).convert(mode).save(buffer, format=format)
    return buffer.getvalue()


def read_image(value: Any, *, fit: Fit = "crop") -> np.ndarray:
    card = ModelCard(
        classes=CLASSES, image_size=SIZE, storage_size=STORAGE, fit=fit, set_thresholds={}, facts={}
    )
    return read_value(card, value)


def textured_jpeg(*, orientation: int = 1, size: tuple[int, int] = (90, 60)) -> bytes:
    width, height = size
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([across * 2, down * 4, (across + down) % 256], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_served_image_is_the_evaluation_view_of_the_search(fit: Any, orientation: int) -> None:
    from trainables.data.augmentation import evaluation_view

    content = textured_jpeg(orientation=orientation)
    stored = decode_square(content, size=STORAGE, fit=fit).pixels
    searched = evaluation_view(torch.from_numpy(stored[None].copy()), size=SIZE, fit=fit)[0].numpy()

    served = read_image(content, fit=fit)

    np.testing.assert_array_equal(np.round(255 * served), np.round(255 * searched))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_image_mode_becomes_three_channels(mode: str) -> None:
    content = encode_image("white", mode=mode, format="TIFF" if mode == "CMYK" else "PNG")

    pixels = read_image(content)

    assert pixels.shape == (3, SIZE, SIZE)
    assert pixels.dtype == np.float32
    assert pixels.min() > 0.98


def test_transparent_pixels_become_white() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(buffer, format="PNG")

    pixels = read_image(buffer.getvalue())

    assert pixels.min() == 1.0


@pytest.mark.parametrize("value", ["not base64!", b"no image", base64.b64encode(b"text").decode(), b"", None])
def test_what_is_no_image_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ValueError, match="bytes of an image file"):
        read_image(value)


def test_predictions_name_the_class_for_bytes_and_base64_alike(export_dir: Path) -> None:
    model = ServedClassifier()
    model.load_context(SimpleNamespace(artifacts={"export": str(export_dir)}))
    blue = base64.b64encode(encode_image("blue")).decode()

    answer = model.predict(None, pd.DataFrame({"image": [encode_image("red"), blue]}))

    assert list(answer["label"]) == [CLASSES[0], CLASSES[2]]
    assert set(answer["probabilities"][0]) == set(CLASSES)
    assert answer["probability"][0] == pytest.approx(answer["probabilities"][0][CLASSES[0]])


def test_the_second_best_class_and_the_prediction_set_are_told(export_dir: Path) -> None:
    model = ServedClassifier()
    model.load_context(SimpleNamespace(artifacts={"export": str(export_dir)}))

    answer = model.predict(None, pd.DataFrame({"image": [encode_image("yellow"), encode_image("red")]}))

    assert [sorted(inside) for inside in answer["set"]] == [sorted(CLASSES[:2]), [CLASSES[0]]]
    assert sorted([answer["label"][0], answer["second"][0]]) == sorted(CLASSES[:2])
    assert answer["second_probability"][0] == pytest.approx(0.5, abs=1e-3)


def test_an_export_of_before_prediction_sets_had_thresholds_still_answers(
    export_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(export_dir, tmp_path, dirs_exist_ok=True)
    card = ModelPaths(tmp_path).card
    card.write_text(json.dumps(json.loads(card.read_text()) | {"thresholds": {"prediction_sets": 0.57}}))
    model = ServedClassifier()
    model.load_context(SimpleNamespace(artifacts={"export": str(tmp_path)}))

    answer = model.predict(None, pd.DataFrame({"image": [encode_image("red")]}))

    assert answer["label"][0] == CLASSES[0]
    assert "set" not in answer.columns


def wrapped(text: str) -> str:
    return "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76)) + "\n"


@pytest.mark.parametrize(
    "encode",
    [
        lambda content: base64.encodebytes(content).decode(),
        lambda content: wrapped(base64.b64encode(content).decode()),
        lambda content: base64.urlsafe_b64encode(content).decode(),
        lambda content: base64.b64encode(content).decode().rstrip("="),
        lambda content: "data:image/png;base64," + base64.b64encode(content).decode(),
        lambda content: "DATA:;base64," + wrapped(base64.b64encode(content).decode()),
        lambda content: "data:image/png;base64," + quote(base64.b64encode(content).decode(), safe=""),
        lambda content: content,
        bytearray,
        memoryview,
    ],
)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP"])
def test_an_image_is_read_however_its_bytes_travel(encode: Any, format: str) -> None:
    random = np.random.default_rng(0).integers(0, 255, (21, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(random).save(buffer, format=format)
    content = buffer.getvalue()
    plain = read_image(content)

    travelled = read_image(encode(content))

    assert np.array_equal(travelled, plain)


def test_bad_images_among_many_cost_the_others_nothing(export_dir: Path) -> None:
    model = ServedClassifier()
    model.load_context(SimpleNamespace(artifacts={"export": str(export_dir)}))
    images: list[Any] = [encode_image("red") for _ in range(50)]
    images[7], images[40], images[41] = "no base64!", None, encode_image("red")[:60]

    answer = model.predict(None, pd.DataFrame({"image": images}))

    assert [number for number, error in enumerate(answer["error"]) if error] == [7, 40, 41]
    assert [number for number, label in enumerate(answer["label"]) if label is None] == [7, 40, 41]
    assert set(answer["label"].drop([7, 40, 41])) == {CLASSES[0]}


def test_a_request_without_a_readable_image_is_refused(export_dir: Path) -> None:
    model = ServedClassifier()
    model.load_context(SimpleNamespace(artifacts={"export": str(export_dir)}))

    with pytest.raises(ValueError, match="bytes of an image file"):
        model.predict(None, pd.DataFrame({"image": [b"no image", 10**12]}))


def test_more_images_than_a_batch_come_back_in_order(export_dir: Path) -> None:
    model = ServedClassifier()
    model.load_context(SimpleNamespace(artifacts={"export": str(export_dir)}))
    colors = ["red", "green", "blue"] * 23

    answer = model.predict(None, pd.DataFrame({"image": [encode_image(color) for color in colors]}))

    assert list(answer["label"]) == list(CLASSES) * 23


def test_no_images_give_no_predictions(export_dir: Path) -> None:
    model = ServedClassifier()
    model.load_context(SimpleNamespace(artifacts={"export": str(export_dir)}))

    answer = model.predict(None, pd.DataFrame({"image": []}))

    assert len(answer) == 0


def test_a_directory_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"classifier\.pt2 is missing"):
        log_model(tmp_path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("reach", ["in reach", "out of reach"])
def test_the_logged_model_decodes_with_its_own_copy(
    reach: str, tmp_path: Path, logged: tuple[str, str]
) -> None:
    uri, model_uri = logged
    request = json.dumps({"image": [base64.b64encode(encode_image("blue")).decode()]})
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    asked = subprocess.run(
        [sys.executable, "-I", "-c", ASK_THE_MODEL, str(ROOT), model_uri, request, reach],
        cwd=tmp_path,
        env=environment | {"MLFLOW_TRACKING_URI": uri},
        check=True,
        capture_output=True,
        encoding="utf-8",
    )

    answer = json.loads(asked.stdout.splitlines()[-1])
    assert bool(answer["found"]) == (reach == "in reach")
    assert answer["label"] == [CLASSES[2]]
    assert set(answer["files"]) == {"contract", *(f"contract.{Path(name).stem}" for name in CODE_FILES)}
    for file in answer["files"].values():
        assert not Path(file).is_relative_to(ROOT)
        assert Path(file).parts[-3:-1] == ("code", "contract")


@pytest.mark.slow
def test_the_logged_model_answers_the_command_line_and_the_server(
    tmp_path: Path, logged: tuple[str, str]
) -> None:
    uri, model_uri = logged
    blue = base64.b64encode(encode_image("blue")).decode()
    request = {"dataframe_split": {"columns": ["image"], "data": [[blue], ["no image"]]}}
    (tmp_path / "input.json").write_text(json.dumps(request))
    # `mlflow models serve` looks for uvicorn on the PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PATH": path}
    mlflow = [sys.executable, "-m", "mlflow", "models"]
    where = ["-m", model_uri, "--env-manager", "local"]

    predicted = subprocess.run(
        [*mlflow, "predict", *where, "-i", "input.json", "-t", "json", "-o", "output.json"],
        cwd=tmp_path,
        env=environment,
        check=True,
        timeout=120,
    )
    served = _serve_once([*mlflow, "serve", *where], request, environment, tmp_path)

    assert predicted.returncode == 0
    output = json.loads((tmp_path / "output.json").read_text())["predictions"]
    assert output[0]["label"] == served["predictions"][0]["label"] == CLASSES[2]
    assert served["predictions"][0]["probabilities"].keys() == set(CLASSES)
    assert output[0]["set"] == served["predictions"][0]["set"] == [CLASSES[2]]
    for answer in (output[1], served["predictions"][1]):
        assert answer["label"] is answer["probability"] is answer["probabilities"] is answer["set"] is None
        assert "bytes of an image file" in answer["error"]


def _serve_once(command: list[str], request: Any, environment: dict[str, str], cwd: Path) -> Any:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([*command, "-p", str(port)], env=environment, cwd=cwd)
    post = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        data=json.dumps(request).encode(),
        headers={"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        for _ in range(120):
            try:
                with opener.open(post, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.URLError as error:
                assert not isinstance(error, urllib.error.HTTPError), error.read()
                assert server.poll() is None
                time.sleep(0.5)
        raise TimeoutError("the server never answered")
    finally:
        server.terminate()
        server.wait(timeout=20)
