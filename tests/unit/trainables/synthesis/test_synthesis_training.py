"""A GAN's training goes on as if it had never been stopped, and its collapse is noticed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainables.synthesis import epochs
from trainables.synthesis.epochs import GanRun, Limits, Watched, choose_watched
from trainables.synthesis.features import measure_features
from trainables.synthesis.networks import Generator, Shape
from trainables.synthesis.quality import compare, describe_collapse
from trainables.synthesis.training import (
    DiscriminatorKind,
    GanTraining,
    Rates,
    TrainingDiverged,
    generate,
    image_weights,
    random_stream,
)

SHAPE = Shape(image_size=32, num_classes=2, channels=3, width=8, widest=16, latent=8, embedding=4)


def make_images(number: int = 24) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of two classes, coloured blobs at different places."""
    random = np.random.default_rng(0)
    labels = np.arange(number) % 2
    coarse = random.integers(0, 256, (number, 4, 4, 3)).astype(np.uint8)
    coarse[labels == 1, :2] = 255
    return coarse.repeat(8, axis=1).repeat(8, axis=2), labels


def make_training(**changes: object) -> GanTraining:
    images, labels = make_images()
    return GanTraining(images, labels, **{"shape": SHAPE, "seed": 1, **changes})  # type: ignore[arg-type]


def make_run(folder: Path, said: list[str]) -> GanRun:
    images, labels = make_images()
    return GanRun(
        make_training(),
        folder / "checkpoint.pt",
        Watched(features=measure_features(images), labels=labels),
        on_epoch=lambda number, _: said.append(f"sheet {number}"),
        say=said.append,
    )


def same(first: Generator, second: Generator) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(one, two) for (name, one), (other, two) in pairs)


@pytest.mark.parametrize("discriminator", get_args(DiscriminatorKind))
def test_training_that_goes_on_from_its_state_ends_with_the_same_weights(discriminator: str) -> None:
    whole, first, second = (make_training(discriminator=discriminator) for _ in range(3))
    for _ in range(6):
        whole.update()
    for _ in range(3):
        first.update()

    second.resume(first.state())
    for _ in range(3):
        second.update()

    assert second.step == 6
    assert same(whole.average, second.average)
    assert same(whole.generator, second.generator)
    assert not same(whole.average, first.average)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums are added up in the order of the threads, of which other tests leave another number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "UPDATES", 4)


KILLED = """
import sys
from pathlib import Path
from typing import get_args
import torch
from trainables.synthesis import epochs
torch.set_num_threads(1)
epochs.UPDATES, epochs.SAVE_SECONDS = 4, 0.0
sys.path.insert(0, sys.argv[2])
from test_synthesis_training import Limits, make_run
class Said(list):
    def append(self, line):
        print(line, flush=True)
make_run(Path(sys.argv[1]), Said()).run(Limits(epochs=1000, patience=0))
"""


def test_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, short_epochs: None, one_thread: None
) -> None:
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 2/1000: 50%"):  # in the middle of an epoch, just after a saved state
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    reached = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["training"]["step"]
    until = Limits(epochs=max(3, reached // 4 + 1), patience=0)

    said: list[str] = []
    killed, whole = make_run(tmp_path, said), make_run(tmp_path / "whole", [])
    (tmp_path / "whole").mkdir()
    for run in (killed, whole):
        assert "epochs are done" in run.run(until)

    assert said[0] == f"going on after update {reached:,}"
    assert 4 < reached < whole.training.step
    assert killed.progress.distances == whole.progress.distances
    assert same(killed.best_generator(), whole.best_generator())
    assert same(killed.training.generator, whole.training.generator)


def test_training_ends_early_and_keeps_its_best_generator(tmp_path: Path, short_epochs: None) -> None:
    said: list[str] = []
    run = make_run(tmp_path, said)
    run.run(Limits(epochs=1, patience=2))
    best = run.best_generator()
    run.progress.distances[0] = -1.0  # nothing can be better

    reason = run.run(Limits(epochs=50, patience=2))

    assert reason == "no better for 2 epochs"
    assert len(run.progress.distances) == 3
    assert same(run.best_generator(), best)
    assert [line for line in said if line.startswith("sheet")] == ["sheet 1", "sheet 2", "sheet 3"]


def test_training_ends_before_an_epoch_that_would_take_too_long(tmp_path: Path, short_epochs: None) -> None:
    run = make_run(tmp_path, [])

    assert run.run(Limits(epochs=50, patience=0, seconds=1e-3)) == "the time is up"
    assert len(run.progress.distances) == 1


def test_training_without_numbers_is_an_error_and_not_saved(tmp_path: Path, short_epochs: None) -> None:
    run = make_run(tmp_path, [])
    with torch.no_grad():
        run.training.generator.last.bias.fill_(float("nan"))

    with pytest.raises(TrainingDiverged, match="no number any more"):
        run.run(Limits(epochs=1, patience=0))

    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("cause", ["a discriminator that learns nothing", "no latent vector"])
def test_collapse_that_is_provoked_is_noticed(cause: str) -> None:
    images, labels = make_images(60)
    training = (
        GanTraining(images, labels, shape=SHAPE, seed=0, rates=Rates(discriminator=0.0))
        if "learns" in cause
        else GanTraining(images, labels, shape=SHAPE, seed=0)
    )
    if "latent" in cause:
        with torch.no_grad():  # whatever it learns, it is the same image for every latent vector
            training.generator.first.weight[:, : SHAPE.latent] = 0
            for block in training.generator.blocks:
                block.norm.affine.weight[:, : SHAPE.latent] = 0
        training.average.load_state_dict(training.generator.state_dict())
    else:
        for _ in range(20):
            training.update()

    made = generate(training.average, labels, seed=0, purpose="judge")
    real, fake = measure_features(images), measure_features(made)

    for label in (0, 1):
        assert describe_collapse(compare(real[labels == label], fake[labels == label]))


def test_images_depend_on_seed_purpose_and_number_alone() -> None:
    generator, labels = make_training().average, np.array([0, 1, 1])

    first, again = (generate(generator, labels, seed=0, purpose="x") for _ in range(2))

    assert first.shape == (3, 32, 32, 3)
    assert np.array_equal(first, again)
    for other in ({"seed": 1, "purpose": "x"}, {"seed": 0, "purpose": "y"}):
        assert not np.array_equal(first, generate(generator, labels, **other))  # type: ignore[arg-type]
    assert random_stream(0, "x", 1).initial_seed() != random_stream(0, "x", 2).initial_seed()


def test_grey_images_are_made_grey() -> None:
    images, labels = make_images()
    grey = images[..., :1].repeat(3, axis=3)
    shape = Shape(image_size=32, num_classes=2, channels=1, width=8, widest=16)
    training = GanTraining(grey, labels, shape=shape, seed=0, mirror=True)
    training.update()

    made = generate(training.average, labels, seed=0, purpose="x")

    assert (made == made[..., :1]).all()


def test_class_is_drawn_by_the_square_root_of_its_images() -> None:
    labels = np.repeat([0, 1], [400, 100])

    weights = image_weights(labels).numpy()

    assert weights[labels == 0].sum() == pytest.approx(2 * weights[labels == 1].sum())


def test_held_back_images_are_watched_if_there_are_enough() -> None:
    labels, held = np.zeros(500, np.int64), np.arange(500) < 120

    assert choose_watched(labels, held).tolist() == list(range(120))
    assert len(choose_watched(labels, np.arange(500) < 20)) == 500
