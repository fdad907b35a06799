"""What combinations of trials cost at inference beside a single one: their exported programs, timed in turns.

    python -m benchmarks answer_latency --data PHOTOS --image-size 96

A trial of four updates is trained for every depth, since speed does not depend on how well it predicts. Every
program is exported with its proof, loaded again and timed in turns with the single trial's, on one thread and
by the time that it computes, so that other processes do not count: without them, that is the latency. The
last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from contract.answer import Combination, MemberRef, Pooling, WeightedMember
from contract.messages import Lease, LeasedTrial, StudySettings
from contract.model_layout import ModelPaths
from trainables.data.datasets import find_images
from trainables.export.latency import BATCH, CombinationCosts
from trainables.export.program import make_checked_program
from trainables.export.split_predictions import write_flipped_predictions
from trainables.images.preparation import prepare_images
from trainables.lease import start_lease
from trainables.model.backbones import find_backbone
from trainables.model.weights import locate_weights

BACKBONES = ("lite0", "lite1")
LOGITS, PROBABILITIES = Pooling.LOGITS, Pooling.PROBABILITIES
ROWS: tuple[tuple[str, tuple[str, ...], Pooling], ...] = (
    ("4 of depth 0, logits", ("lite0 0",) * 4, LOGITS),
    ("4 of depth 0, probabilities", ("lite0 0",) * 4, PROBABILITIES),
    ("2 of depth 0, 2 of depth 1, logits", ("lite0 0", "lite0 0", "lite0 1", "lite0 1"), LOGITS),
    ("4 of depth 1, logits", ("lite0 1",) * 4, LOGITS),
    ("depths 0, 1, 2, 3, logits", ("lite0 0", "lite0 1", "lite0 2", "lite0 3"), LOGITS),
    ("4 of depth 2, logits", ("lite0 2",) * 4, LOGITS),
    ("4 of depth 3, logits", ("lite0 3",) * 4, LOGITS),
    ("depth 0 and its mirrored view", ("lite0 0", "lite0 0 flip"), PROBABILITIES),
    ("lite0 and lite1, depth 0", ("lite0 0", "lite1 0"), PROBABILITIES),
)
"""What a row is called, its members (backbone, depth, view), and how they are pooled."""

BRIEF = {"max_epochs": 1, "steps_per_epoch": 4, "validation_images": 64}
"""Hyperparameters of trials that need not be good."""

COPIES = 4

Configs = dict[MemberRef, dict[str, Any]]


def make_settings(folder: Path, *, data: str, image_size: int) -> StudySettings:
    """Decode and split the images, and write a study's data.csv."""
    study, cache = folder / "study", folder / "cache"
    study.mkdir()
    manifest, _ = prepare_images(
        find_images(data, cache_dir=cache),
        fits=("crop",),
        image_size=image_size,
        cache_dir=cache,
        budget_gb=10.0,
        seed=0,
        refuse_bad=True,
    )
    manifest.write_csv(study / "data.csv")
    return StudySettings(
        study_directory=str(study),
        classes=manifest.classes,
        weights="auto",
        backbone_weights=tuple(locate_weights(find_backbone(name), "auto") for name in BACKBONES),
        image_size=image_size,
        seed=0,
        metric="val_accuracy",
        maximize=True,
        cache_directory=str(cache),
        cache_gigabytes=10.0,
        num_trials=1,
        threads=torch.get_num_threads(),
    )


def train(settings: StudySettings) -> tuple[dict[str, list[MemberRef]], Configs]:
    """Train a trial of each kind that a row names, and copy it: members by kind, and configurations.

    A program holds the copies' weights as often as there are copies, as it does those of other trials.
    """
    kinds = sorted({member.removesuffix(" flip") for _, members, _ in ROWS for member in members})
    found: dict[str, list[MemberRef]] = {}
    configs: Configs = {}
    for at, kind in enumerate(kinds):
        backbone, depth = kind.split()
        config = BRIEF | {"backbone": backbone, "unfreeze_depth": int(depth)}
        refs = [MemberRef("trial", COPIES * at + copy) for copy in range(COPIES)]
        leased = LeasedTrial(trial=refs[0].number, attempt=1, config=config, done_epochs=0)
        (run,) = start_lease(Lease(trials=(leased,)).as_config(settings.as_values()))
        while not run.finished:
            for report in run.step():
                assert report.reason is None, report.traceback
        for ref in refs[1:]:
            shutil.copytree(refs[0].paths(settings.paths).directory, ref.paths(settings.paths).directory)
        found[kind], configs = refs, configs | dict.fromkeys(refs, config)
    return found, configs


def combine(members: tuple[str, ...], pooling: Pooling, trials: Mapping[str, list[MemberRef]]) -> Combination:
    """Make the combination that a row names: each mention of a kind is another trial, but for views."""
    refs: list[MemberRef] = []
    for member in members:
        kind = member.removesuffix(" flip")
        if kind != member:
            refs.append(MemberRef("trial", trials[kind][0].number, "flip"))
        else:
            refs.append(next(ref for ref in trials[kind] if ref not in refs))
    shares = tuple(WeightedMember(ref=ref, weight=1 / len(refs)) for ref in refs)
    return Combination(members=shares, pooling=pooling)


Program = Callable[[Tensor], Tensor]


def compare(program: Program, single: Program, images: Tensor, *, rounds: int) -> tuple[float, float]:
    """Time a program in turns with the single one: its milliseconds, and the median ratio of a round."""
    pairs = [(cpu_ms(program, images), cpu_ms(single, images)) for _ in range(rounds + 1)][1:]
    ratios = [mine / other for mine, other in pairs]
    return statistics.median(mine for mine, _ in pairs), statistics.median(ratios)


@torch.inference_mode()
def cpu_ms(program: Program, images: Tensor) -> float:
    """Milliseconds that the process computes in one call."""
    began = time.process_time()
    program(images)
    return 1000 * (time.process_time() - began)


def measure(settings: StudySettings, folder: Path, *, rounds: int) -> list[dict[str, Any]]:
    """Export, load and time every row's program beside the single trial's."""
    trials, configs = train(settings)
    write_flipped_predictions([trials["lite0 0"][0]], configs, settings)
    costs = CombinationCosts(settings)

    def export(combination: Combination, name: str) -> tuple[Program, float, float]:
        target, began = ModelPaths(folder / name), time.process_time()
        make_checked_program(combination, configs, settings).write(settings, target=target, about={})
        seconds = time.process_time() - began
        megabytes = target.program.stat().st_size / 1e6
        return torch.export.load(target.program).module(), seconds, megabytes

    one = Combination.single(trials["lite0 0"][0])
    export(one, "warm-up")
    single, seconds, megabytes = export(one, "single")
    size = settings.image_size
    image, batch = torch.rand(1, 3, size, size), torch.rand(BATCH, 3, size, size)
    rows = [
        {
            "row": "single, depth 0",
            "ms": compare(single, single, image, rounds=rounds)[0],
            "ratio": 1.0,
            "batch_ratio": 1.0,
            "estimated_ratio": 1.0,
            "export_cpu_s": seconds,
            "mb": megabytes,
        }
    ]
    for number, (name, members, pooling) in enumerate(ROWS):
        combination = combine(members, pooling, trials)
        program, seconds, megabytes = export(combination, str(number))
        ms, ratio = compare(program, single, image, rounds=rounds)
        _, batch_ratio = compare(program, single, batch, rounds=max(rounds // 7, 3))
        estimated = costs.milliseconds(combination, configs) / costs.milliseconds(one, configs)
        values = (name, ms, ratio, batch_ratio, estimated, seconds, megabytes)
        rows.append(dict(zip(rows[0], values, strict=True)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="digits", help="a data set's name, or a folder of photos")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=21, help="turns of both programs; medians count")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = make_settings(folder, data=flags.data, image_size=flags.image_size)
        rows = measure(settings, folder, rounds=flags.rounds)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in rows[0]:
        table.add_column(head)
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:.2f}" for value in row.values()))
    Console().print(table)
    print(json.dumps({"image_size": flags.image_size, "rows": rows}))


if __name__ == "__main__":
    main()
