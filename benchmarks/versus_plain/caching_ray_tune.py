"""The search that an expert writes in a day with plain Ray Tune for unfreeze depths and policies.

Nothing here comes from Unfreeze. Before the search the driver makes a few augmented copies of the photos for
each policy, sends each once through the frozen network, and keeps its maps at every depth's cut in
memory-mapped files of float16. A trial trains the stages above its cut, and a head, on these files: a class
Trainable on one thread whose process is used again, OptunaSearch (TPE), ASHAScheduler, no logs and no
checkpoints but the best network of each process.

    python -m benchmarks.versus_plain.caching_ray_tune --data PHOTOS --trials 24 --out network.pt
    python -m benchmarks.versus_plain.caching_ray_tune --data PHOTOS --depths 0 1 2 3 --policies none light

`--data` is what expert_ray_tune.py takes. The last line printed is one line of JSON: the best network's
accuracy, seconds since the process began, and the Unix time of every report.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch
from numpy.lib.format import open_memmap
from PIL import Image
from ray import tune
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.versus_plain.expert_ray_tune import (
    METRIC,
    OPTIMIZERS,
    SPACE,
    USUAL,
    Reports,
    accuracy,
    load_backbone,
    make_head,
    read_rows,
    search,
)

POLICIES = ("none", "flip", "light")
BATCH = 32
DEEP_SPACE = {
    "batch_size": tune.choice([16, 32, 64]),
    "optimizer": "adamw",
    "learning_rate": tune.loguniform(3e-4, 1e-2),
    "weight_decay": 1e-4,
    "dropout": tune.uniform(0.0, 0.5),
    "width": tune.choice([0, 128, 512]),
    "batch_norm": False,
}
"""The space where pretrained stages train, too: those of `--space demo`."""

USUAL_DEEP = {**USUAL, "learning_rate": 1.5e-3, "dropout": 0.2}


class Squares(Dataset[Any]):
    def __init__(self, rows: list[list[Any]], image_size: int) -> None:
        self.rows = rows
        self.transform = v2.Compose([v2.Resize(round(image_size / 0.875)), v2.CenterCrop(image_size)])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.rows[index]
        with Image.open(path) as image:
            return v2.functional.pil_to_tensor(self.transform(image.convert("RGB"))), label


def read_squares(rows: list[list[Any]], image_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes [N, 3, S, S] and classes [N] of the photos; processes for every core decode the files."""
    pixels, labels = zip(
        *DataLoader(Squares(rows, image_size), BATCH, num_workers=os.cpu_count() or 1), strict=True
    )
    return torch.cat(pixels), torch.cat(labels)


def num_copies(policy: str, epochs: int) -> int:
    """Copies of the photos under a policy: as many as differ, and no more than epochs see them."""
    return min(epochs, {"none": 1, "flip": 2}.get(policy, 4))


def augment(squares: torch.Tensor, policy: str, number: int) -> torch.Tensor:
    """Make a copy of all photos; the first two of "flip" are the photos and their mirror images."""
    if policy == "none" or (policy == "flip" and number == 0):
        return squares
    if policy == "flip":
        return squares.flip(-1)
    torch.manual_seed(number)
    transform = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomAffine(0, (0.1, 0.1))])
    return torch.stack([transform(square) for square in squares])


@torch.inference_mode()
def compute_maps(model: Any, squares: torch.Tensor, depths: list[int]) -> dict[int, torch.Tensor]:
    """Compute what the stages above each depth's cut take, in one pass: of depth 0 the pooled features."""
    found: dict[int, torch.Tensor] = {}
    pixels = (squares.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
    maps = model.bn1(model.conv_stem(pixels))
    for number, stage in enumerate(model.blocks):
        if len(model.blocks) - number in depths:
            found[len(model.blocks) - number] = maps
        maps = stage(maps)
    if 0 in depths:
        found[0] = model.global_pool(model.bn2(model.conv_head(maps)))
    return found


def write_maps(
    squares: torch.Tensor, model: Any, depths: list[int], files: dict[int, Path], *, policy: str, copies: int
) -> None:
    """Write the maps of all copies, float16 [copies, N, ...], into a file for each depth."""
    arrays: dict[int, Any] = {}
    for number in range(copies):
        views = augment(squares, policy, number)
        for start in range(0, len(views), BATCH):
            for depth, maps in compute_maps(model, views[start : start + BATCH], depths).items():
                if depth not in arrays:
                    shape = (copies, len(views), *maps.shape[1:])
                    arrays[depth] = open_memmap(files[depth], "w+", np.float16, shape)
                arrays[depth][number, start : start + BATCH] = maps.half().numpy()


@dataclass(frozen=True)
class Store:
    """The folder of the files, and the classes of the photos."""

    folder: Path
    labels: dict[str, np.ndarray]

    def file(self, backbone: str, split: str, policy: str, depth: int) -> Path:
        return self.folder / f"{backbone}-{split}-{policy}-{depth}.npy"

    def load(self, backbone: str, split: str, policy: str, depth: int) -> np.ndarray:
        return np.load(self.file(backbone, split, policy, depth), mmap_mode="r")


def fill_store(rows: dict[str, list[list[Any]]], flags: argparse.Namespace, folder: Path) -> Store:
    """Decode the photos, and write the maps of every backbone, policy and depth."""
    squares, labels = {}, {}
    for split in ("train", "val"):
        squares[split], own = read_squares(rows[split], flags.image_size)
        labels[split] = own.numpy()
    store = Store(folder, labels)
    for backbone in flags.backbones:
        model = load_backbone(backbone)
        for split, policy in (("val", "none"), *(("train", policy) for policy in flags.policies)):
            files = {depth: store.file(backbone, split, policy, depth) for depth in flags.depths}
            copies = num_copies(policy, flags.epochs)
            write_maps(squares[split], model, flags.depths, files, policy=policy, copies=copies)
    return store


def make_network(config: dict[str, Any], model: Any, num_classes: int) -> nn.Sequential:
    """Copies of the stages above the cut, and a new head."""
    head, depth = make_head(config, model.num_features, num_classes), config["unfreeze_depth"]
    if not depth:
        return nn.Sequential(nn.Identity(), head)
    top = nn.Sequential(*model.blocks[-depth:], model.conv_head, model.bn2, model.global_pool)
    return nn.Sequential(copy.deepcopy(top), head).to(memory_format=torch.channels_last)


class Training:
    """A network above the cut, trained one epoch after the other."""

    def __init__(self, config: dict[str, Any], store: Store, model: Any, epochs: int) -> None:
        torch.manual_seed(0)
        self.config, self.epoch = config, 0
        where, depth = config["backbone"], config["unfreeze_depth"]
        self.maps = store.load(where, "train", config["policy"], depth)
        self.labels = torch.from_numpy(store.labels["train"])
        self.val = to_input(store.load(where, "val", "none", depth)[0])
        self.val_labels = torch.from_numpy(store.labels["val"])
        self.net = make_network(config, model, 1 + int(self.labels.max()))
        rates = {"lr": config["learning_rate"], "weight_decay": config["weight_decay"]}
        self.optimizer = OPTIMIZERS[config["optimizer"]](self.net.parameters(), **rates)
        steps = epochs * -(-len(self.labels) // config["batch_size"])
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    def train_epoch(self) -> float:
        """Train on a copy of every photo; the accuracy on the validation photos afterwards."""
        self.net.train()
        order: Any = torch.randperm(len(self.labels))
        for batch in order.split(self.config["batch_size"]):
            if len(batch) > 1:  # batch norm needs two
                rows = batch.numpy()
                # A photo's copies take turns, and every epoch has some photos of each copy.
                inputs = to_input(self.maps[(rows + self.epoch) % len(self.maps), rows])
                self.optimizer.zero_grad()
                loss: Any = cross_entropy(self.net(inputs), self.labels[batch])
                loss.backward()
                self.optimizer.step()
            self.schedule.step()
        self.epoch += 1
        return accuracy(self.net, self.val, self.val_labels)


def to_input(maps: np.ndarray) -> torch.Tensor:
    """Stored maps as a network's input."""
    inputs = torch.from_numpy(maps.astype(np.float32))
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs


class CachingTrial(tune.Trainable):
    models: dict[str, Any] = {}  # noqa: RUF012  (one for the process, whichever trial it runs)
    best = -1.0

    def setup(self, config: dict[str, Any], store: Any = None, epochs: int = 0) -> None:
        torch.set_num_threads(1)
        self.store, self.epochs = store, epochs
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        name = config["backbone"]
        if name not in self.models:
            self.models[name] = load_backbone(name)
        self.training = Training(config, self.store, self.models[name], self.epochs)
        return True

    def step(self) -> dict[str, float]:
        found = self.training.train_epoch()
        if found > CachingTrial.best:
            CachingTrial.best = found
            kept = {
                "val_accuracy": found,
                "config": self.training.config,
                "state": self.training.net.state_dict(),
            }
            torch.save(kept, self.store.folder / f"best-{os.getpid()}.pt")
        return {METRIC: found}


def make_space(flags: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The search space, and the configurations that are tried first: a head alone, and the deepest of all."""
    deepest = max(flags.depths)
    names = {"policy": flags.policies, "unfreeze_depth": flags.depths, "backbone": flags.backbones}
    space = {**(DEEP_SPACE if deepest else SPACE), **{name: tune.choice(own) for name, own in names.items()}}
    first = {**USUAL, "policy": flags.policies[0], "unfreeze_depth": min(flags.depths)}
    points = [{**first, "backbone": name} for name in flags.backbones]
    if deepest:
        points.append({**first, **USUAL_DEEP, "unfreeze_depth": deepest, "backbone": flags.backbones[0]})
    varied = {name for name, values in space.items() if not isinstance(values, str | bool | float)}
    return space, [{name: value for name, value in point.items() if name in varied} for point in points]


def run(flags: argparse.Namespace) -> dict[str, Any]:
    """Search, and keep the best network in a file."""
    rows, reports = read_rows(flags.data, flags.num_images), Reports()
    space, points = make_space(flags)
    with tempfile.TemporaryDirectory() as storage:
        folder = Path(storage) / "maps"
        folder.mkdir()
        store = fill_store(rows, flags, folder)
        featured = time.time()
        trainable = tune.with_parameters(CachingTrial, store=store, epochs=flags.epochs)
        results = search(trainable, space, points, flags, reports, storage)
        kept = [torch.load(file, weights_only=True) for file in sorted(folder.glob("best-*.pt"))]
    best = max(kept, key=lambda one: one["val_accuracy"])
    if flags.out:
        torch.save(best, flags.out)
    found = {name: best[name] for name in ("val_accuracy", "config")} | {"reports": reports.rows}
    errors = [str(error) for error in results.errors]
    ray.shutdown()
    began = psutil.Process().create_time()
    return {"seconds": round(time.time() - began, 1), "featured": featured, "errors": errors, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data", "--images", type=Path, required=True, help="folder of class folders, or JSON of photos"
    )
    parser.add_argument("--num-images", type=int, default=600, help="drawn of a folder [600]")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--backbones", nargs="+", default=["lite0"])
    parser.add_argument("--depths", nargs="+", type=int, default=[0], help="stages that train [0: the head]")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpus", type=int, default=os.cpu_count(), help="trials at once [every core]")
    parser.add_argument("--out", type=Path, help="keep the best network here")
    print(json.dumps(run(parser.parse_args())))


if __name__ == "__main__":
    main()
