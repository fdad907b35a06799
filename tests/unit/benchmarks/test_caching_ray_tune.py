"""The search that caches depths and policies by hand, without Ray: its copies, its files and its networks."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.versus_plain import caching_ray_tune, expert_ray_tune, plain_ray_tune
from benchmarks.versus_plain.commands import accuracy_of_network
from tests.tiny_data import write_images

CONFIG = {**expert_ray_tune.USUAL, "backbone": "lite0", "policy": "light", "unfreeze_depth": 2}


def fill(tmp_path: Path, *, depths: list[int], policies: list[str]) -> tuple[Any, dict[str, list[list[Any]]]]:
    rows = expert_ray_tune.read_rows(write_images(tmp_path / "images"), 30)
    flags = Namespace(image_size=32, backbones=["lite0"], depths=depths, policies=policies, epochs=2)
    folder = tmp_path / "maps"
    folder.mkdir()
    return caching_ray_tune.fill_store(rows, flags, folder), rows


def test_copies_differ_where_the_policy_is_random_and_mirror_where_it_flips() -> None:
    squares = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)

    copies = {policy: caching_ray_tune.num_copies(policy, 4) for policy in caching_ray_tune.POLICIES}

    assert copies == {"none": 1, "flip": 2, "light": 4}
    assert caching_ray_tune.num_copies("light", 2) == 2
    assert torch.equal(caching_ray_tune.augment(squares, "flip", 0), squares)
    assert torch.equal(caching_ray_tune.augment(squares, "flip", 1), squares.flip(-1))
    one, other, again = (caching_ray_tune.augment(squares, "light", number) for number in (0, 1, 0))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_network_above_a_cut_continues_what_is_stored_below_it(tmp_path: Path, depth: int) -> None:
    store, rows = fill(tmp_path, depths=[0, 1, 3], policies=["none"])
    model = expert_ray_tune.load_backbone("lite0")
    network = caching_ray_tune.make_network({**CONFIG, "unfreeze_depth": depth}, model, 3).eval()

    (stored,) = store.load("lite0", "train", "none", depth)
    squares, labels = caching_ray_tune.read_squares(rows["train"], 32)
    with torch.inference_mode():
        found = network[0](caching_ray_tune.to_input(stored))
        expected = model(squares / 127.5 - 1)

    assert torch.allclose(found, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))  # float16
    assert store.labels["train"].tolist() == labels.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_the_stages_that_train_are_those_of_the_plain_script(depth: int) -> None:
    model = expert_ray_tune.load_backbone("lite0")
    plain = plain_ray_tune.make_model(3, unfreeze_depth=depth, dropout=0.0)

    network = caching_ray_tune.make_network({**CONFIG, "unfreeze_depth": depth}, model, 3)

    trainable = [own.shape for own in plain.parameters() if own.requires_grad]
    assert [own.shape for own in network.parameters()] == trainable


@pytest.mark.slow
def test_a_network_learns_from_all_copies_and_is_measured_as_it_was_kept(tmp_path: Path) -> None:
    store, rows = fill(tmp_path, depths=[2], policies=["light"])
    model = expert_ray_tune.load_backbone("lite0")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training = caching_ray_tune.Training({**CONFIG, "batch_size": 8}, store, model, 4)

    accuracies = [training.train_epoch() for _ in range(4)]

    assert store.load("lite0", "train", "light", 2).shape[:2] == (2, len(rows["train"]))
    assert max(accuracies) > 0.6  # three classes of plain colours
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    kept = {"config": training.config, "state": training.net.state_dict()}
    torch.save(kept, tmp_path / "kept.pt")
    found = accuracy_of_network(tmp_path / "kept.pt", rows["val"], 32)
    assert found == pytest.approx(accuracies[-1], abs=1.01 / len(rows["val"]))  # float16 in the files


def test_the_first_configurations_are_of_the_space_and_the_deepest_is_among_them() -> None:
    flags = Namespace(depths=[0, 1, 2, 3], policies=["none", "light"], backbones=["lite0"])

    space, points = caching_ray_tune.make_space(flags)

    assert [point["unfreeze_depth"] for point in points] == [0, 3]
    assert all(point.keys() <= space.keys() for point in points)
    rates = space["learning_rate"]
    assert all(rates.lower <= point["learning_rate"] <= rates.upper for point in points)
    heads, (point,) = caching_ray_tune.make_space(Namespace(**{**vars(flags), "depths": [0]}))
    assert heads["width"].categories == [0, 128, 256, 512]
    assert np.isclose(point["learning_rate"], 1e-3)
