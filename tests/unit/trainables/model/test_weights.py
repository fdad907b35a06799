"""Weights: found before the search, loaded exactly, and a way out where there are none."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from contract.weights_source import WeightsSource
from tests.stand_in_hub import point_at
from trainables.model import weights
from trainables.model.backbones import BACKBONES, find_backbone
from trainables.model.classifier import Classifier
from trainables.model.heads import make_head
from trainables.model.networks import make_backbone
from trainables.model.weights import fetch_weights, load_weights, locate_weights, random_weights

ROW = find_backbone("resnet18")
PACKAGED = [row.name for row in BACKBONES.values() if row.package]


@pytest.fixture
def without_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point_at(monkeypatch, "http://127.0.0.1:9", tmp_path / "no cache")


def state_of(seed: int) -> dict[str, torch.Tensor]:
    return make_backbone(ROW, seed=seed).state_dict()


def loaded(source: WeightsSource) -> dict[str, torch.Tensor]:
    module = make_backbone(ROW, seed=99)
    load_weights(module, source)
    return module.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_weights_are_found_and_are_not_random(name: str) -> None:
    row = find_backbone(name)

    source = locate_weights(row, "auto")
    module = make_backbone(row)
    load_weights(module, source)

    assert source.kind == "package"
    assert all(torch.isfinite(tensor).all() for tensor in module.state_dict().values())
    assert module.get_submodule("bn1").running_var.std() > 0.01


def test_the_packaged_network_knows_a_daisy_and_a_palace() -> None:
    from sklearn.datasets import load_sample_image

    row = find_backbone("lite0")
    backbone = make_backbone(row)
    load_weights(backbone, locate_weights(row, "auto"))
    path = weights._packaged_file(row.package or "")
    assert path is not None
    own_head = list(torch.load(path, weights_only=True).values())[-2:]
    classifier = Classifier(backbone, make_head(1280, 1000), depth=0).eval()
    classifier.head.load_state_dict(dict(zip(("output.weight", "output.bias"), own_head, strict=True)))
    photos = [torch.from_numpy(load_sample_image(name).copy()) for name in ("china.jpg", "flower.jpg")]

    squares = torch.stack(photos).permute(0, 3, 1, 2)[..., 106:533] / 255
    classes = classifier(
        torch.nn.functional.interpolate(squares, 224, mode="bicubic", antialias=True)
    ).argmax(1)

    assert classes.tolist() == [698, 985]


def test_a_source_is_found_without_importing_torch() -> None:
    code = (
        "import sys; from trainables.model.backbones import find_backbone;"
        "from trainables.model.weights import locate_weights;"
        "locate_weights(find_backbone('lite0'), 'auto'); assert 'torch' not in sys.modules"
    )

    finished = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[4], check=False)

    assert finished.returncode == 0


def test_a_source_travels_to_a_worker() -> None:
    source = random_weights(ROW, 3)

    assert pickle.loads(pickle.dumps(source)) == source


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_in_a_folder_are_found_by_the_name_of_the_backbone(tmp_path: Path, suffix: str) -> None:
    state = state_of(1) | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    path = tmp_path / f"resnet18.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save({"state_dict": state}, path)

    source = locate_weights(ROW, tmp_path)

    assert source.location == str(path)
    assert same(loaded(source), state_of(1))


def test_the_identity_follows_the_numbers_and_not_the_place(tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("copy", 1), ("other", 2)):
        save_file(state_of(seed), tmp_path / f"{name}.safetensors")

    first, copy, other = (
        locate_weights(ROW, tmp_path / f"{name}.safetensors").identity for name in ("first", "copy", "other")
    )

    assert first == copy != other


def test_random_weights_follow_from_their_seed() -> None:
    sources = [locate_weights(ROW, "random", seed=seed) for seed in (1, 1, 2)]

    first, again, other = map(loaded, sources)

    assert same(first, again)
    assert not same(first, other)
    assert sources[0].identity != sources[2].identity


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    state = state_of(1)
    state["layer4.0.conv1.weight"] = torch.zeros(1)
    state["surplus"] = state.pop("conv1.weight")
    torch.save(state, tmp_path / "resnet18.pth")

    with pytest.raises(
        ValueError, match=r"conv1.weight missing; surplus unknown; layer4.0.conv1.weight is \[1\]"
    ):
        loaded(locate_weights(ROW, tmp_path))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Path()}, tmp_path / "resnet18.pth")

    with pytest.raises(ValueError, match="cannot be read"):
        loaded(locate_weights(ROW, tmp_path))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_of_no_known_format_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"resnet18.{suffix}"
    path.write_text("<html>404</html>")

    with pytest.raises(ValueError, match="cannot be read"):
        loaded(locate_weights(ROW, path))


@pytest.mark.usefixtures("without_hub")
def test_without_weights_or_network_the_message_says_in_one_line_what_to_pass() -> None:
    with pytest.raises(ValueError, match="resnet50") as caught:
        locate_weights(find_backbone("resnet50"), "auto")

    message = str(caught.value)
    assert "\n" not in message
    assert all(way in message for way in ("lite0", "--weights random", "--weights PATH"))


def test_weights_in_the_local_hub_cache_are_found_with_their_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--timm--resnet18.a1_in1k" / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    save_file(state_of(1), snapshot / "model.safetensors")
    refs = tmp_path / "models--timm--resnet18.a1_in1k" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    source = locate_weights(ROW, "auto")

    assert (source.kind, source.revision) == ("hub", "abc123")
    assert source.identity == "hub:timm/resnet18.a1_in1k@abc123"
    assert same(loaded(source), state_of(1))


@pytest.mark.parametrize("place", ["nowhere.pth", "empty"])
def test_a_path_without_weights_is_refused_before_the_search(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(ValueError, match=place):
        locate_weights(ROW, tmp_path / place)


def test_an_unknown_backbone_is_refused_with_what_comes_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean resnet50"):
        find_backbone("rsnet50")
    with pytest.raises(ValueError, match="no backbone"):
        find_backbone("resnet26.no_such_tag")


@pytest.mark.parametrize("name", [row.name for row in BACKBONES.values() if row.timm_name])
def test_a_row_asked_for_by_its_timm_name_has_all_of_the_row(name: str) -> None:
    row = BACKBONES[name]

    found = find_backbone(row.timm_name)

    assert replace(found, name=row.name, without=row.without) == row


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_weights_are_found_by_the_timm_name_with_and_without_its_tag(name: str) -> None:
    timm_name = find_backbone(name).timm_name

    found = [find_backbone(timm_name), find_backbone(timm_name.partition(".")[0])]

    assert [row.name for row in found] == [name, name]
    assert locate_weights(found[1], "auto").kind == "package"


def test_a_tag_that_is_no_row_has_the_size_limits_of_its_architecture() -> None:
    large = find_backbone("inception_v3.gluon_in1k")

    assert (large.smallest, large.timm_name) == (75, "inception_v3.gluon_in1k")


def test_downloaded_weights_are_never_unpickled_by_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pickle.dumps("anything that unpickling could run")
    digest = hashlib.sha256(content).hexdigest()
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / f"net-{digest[:8]}.pth").write_bytes(content)
    (folder / "net-00000000.pth").write_bytes(content)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: pytest.fail("unpickled"))
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("unpickled"))

    good = WeightsSource(
        kind="url", backbone="alexnet", location=f"{folder.as_uri()}/net-{digest[:8]}.pth", identity=""
    )
    other = replace(good, location=f"{folder.as_uri()}/net-00000000.pth")

    assert fetch_weights(good).digest == digest
    with pytest.raises(OSError, match="could not be downloaded: invalid hash"):
        fetch_weights(other)
    assert [path.name for path in (tmp_path / "hub/checkpoints").iterdir()] == [f"net-{digest[:8]}.pth"]


def test_any_timm_model_is_a_backbone() -> None:
    backbone = find_backbone("resnet26")

    assert (backbone.timm_name, backbone.image_size) == ("resnet26.bt_in1k", 224)


@pytest.mark.parametrize("name", ["handcrafted", "hyper_resnet:v2:50:max"])
def test_a_network_of_our_own_gets_random_weights_whatever_is_asked_for(name: str) -> None:
    row = find_backbone(name)

    source = locate_weights(row, "auto", seed=4)

    assert source == random_weights(row, 4)


def test_downloaded_weights_are_found_where_torch_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    row = find_backbone("alexnet")
    module = make_backbone(row, seed=1)
    others = {"classifier.4.weight": torch.zeros(2, 2), "classifier.6.bias": torch.zeros(2)}
    path = tmp_path / "hub" / "checkpoints" / row.weights_url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(module.state_dict() | others, path)

    source = locate_weights(row, "auto")
    found = make_backbone(row, seed=2)
    load_weights(found, source)

    assert source.kind == "url"
    assert same(found.state_dict(), module.state_dict())


def test_parts_that_a_row_leaves_out_are_left_out_of_its_file_too(tmp_path: Path) -> None:
    row = find_backbone("vgg16_no_last_pool")
    state = make_backbone(row, image_size=32, seed=1).state_dict()
    save_file(state | {"pre_logits.fc1.weight": torch.zeros(2, 2)}, tmp_path / "vgg16.safetensors")

    module = make_backbone(row, image_size=32, seed=2)
    load_weights(module, locate_weights(row, tmp_path))

    assert same(module.state_dict(), state)


@pytest.mark.parametrize("name", ["hyper_resnet:v3:50:max", "hyper_resnet:v2", "lite0:v2"])
def test_options_that_a_row_does_not_have_are_refused_with_those_it_has(name: str) -> None:
    with pytest.raises(ValueError, match="there is"):
        find_backbone(name)
