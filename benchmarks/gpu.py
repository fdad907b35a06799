"""What one GPU does with the project's own passes, updates, heads and batches, beside what the card can do.

    python -m benchmarks gpu
    python -m benchmarks gpu --backbones lite0 resnet50 vit_small --depths 0 1 2 4 all --json gpu.json
    python -m benchmarks gpu --device cpu --quick

It needs torch, timm, numpy and Pillow, no Ray and no data: images are drawn, weights are random. A figure is
the median of its samples with the least and the most, after a warm-up, between events of the GPU. A share is
of a limit that is measured first: products of matrices (operations are counted by torch.utils.flop_counter),
or copies from the host. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.versus_plain.sides import hardware
from contract.machine import count_cpus

PARTS = ("limits", "frozen", "training", "heads", "batches", "sharing")
NEEDED = ("torch", "timm", "numpy", "PIL")
GPU_SIZES, CPU_SIZES = (2048, 4096, 8192), (256, 512)
"""Sides of the matrices whose product is timed."""


def depth_of(text: str) -> int | str:
    """A number of stages, or "all"."""
    return text if text == "all" else int(text)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the benchmark out"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one backbone, few cells, tenths of a second each"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="of the table [all]")
    parser.add_argument("--seconds", type=float, help="of a cell, but at least three samples [2; quick 0.2]")
    parser.add_argument("--backbones", nargs="+", help="[lite0 resnet50; quick lite0]")
    parser.add_argument(
        "--depths", nargs="+", type=depth_of, help="stages that train [0 1 2 4 all; quick 0 2]"
    )
    parser.add_argument("--heads", nargs="+", type=int, help="heads of a lease [1 8 32 64; quick 1 8]")
    parser.add_argument("--together", nargs="+", type=int, help="trials on one GPU [1 2 4; quick 1 2]")
    parser.add_argument("--images", type=int, help="training images [1024; quick 64]")
    parser.add_argument("--image-size", type=int, help="pixels [224; quick 64]")
    parser.add_argument("--batch-size", type=int, help="images of an update [64; quick 16]")
    parser.add_argument("--threads", type=int, help="CPU threads of a trial [every core; quick 1]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    return parser


FULL: dict[str, Any] = {
    "seconds": 2.0,
    "backbones": ["lite0", "resnet50"],
    "depths": [0, 1, 2, 4, "all"],
    "heads": [1, 8, 32, 64],
    "together": [1, 2, 4],
    "images": 1024,
    "image_size": 224,
    "batch_size": 64,
    "threads": count_cpus(),
}
QUICK: dict[str, Any] = {
    "seconds": 0.2,
    "backbones": ["lite0"],
    "depths": [0, 2],
    "heads": [1, 8],
    "together": [1, 2],
    "images": 64,
    "image_size": 64,
    "batch_size": 16,
    "threads": 1,
}
"""Values of the flags that were not given."""


def read_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags.

    Raises:
        ValueError: one is wrong.
    """
    flags = make_parser().parse_args(argv)
    for name, value in (QUICK if flags.quick else FULL).items():
        if getattr(flags, name) is None:
            setattr(flags, name, value)
    numbers = [
        flags.seconds,
        flags.images,
        flags.image_size,
        flags.batch_size,
        flags.threads,
        *flags.heads,
        *flags.together,
    ]
    if min(numbers) <= 0:
        raise ValueError("all numbers must be positive; --depths alone may be 0")
    if flags.batch_size > flags.images:
        raise ValueError(f"--batch-size {flags.batch_size} is more than --images {flags.images}")
    return flags


def why_not(device: str) -> str:
    """Say what is missing for a device; "" if nothing is."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        return f"this interpreter lacks {', '.join(lacking)}: install torch, timm, numpy and pillow"
    import torch

    if device == "cpu" or torch.cuda.is_available():
        return ""
    built = "is built for CPUs only" if torch.version.cuda is None else "sees no GPU that its driver can use"
    return (
        f"torch {torch.__version__} {built}; --device cpu --quick tries the benchmark out on this processor"
    )


def measure(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the parts that the flags ask for; everything as plain values."""
    import torch

    from benchmarks.accelerator.limits import Limits, measure_limits
    from benchmarks.accelerator.study import Task, write_study
    from benchmarks.accelerator.timing import Clock, as_table
    from trainables.device.process_setup import prepare_processor

    device = torch.device(flags.device)
    on_gpu = device.type == "cuda"
    clock = Clock(device=device, seconds=flags.seconds)
    task = Task(
        folder=folder,
        device=device,
        num_images=flags.images,
        image_size=flags.image_size,
        batch_size=flags.batch_size,
        threads=flags.threads,
    )
    prepare_processor(task.threads)
    limits = Limits()
    if "limits" in flags.parts:
        sizes, copied = (GPU_SIZES, 2**28) if on_gpu else (CPU_SIZES, 2**24)
        limits = measure_limits(clock, sizes=sizes, copied_bytes=copied)
    if set(flags.parts) != {"limits"}:
        write_study(task)
    for backbone in flags.backbones:
        for work in part_works(flags, clock, limits, task, backbone):
            work()
    print(as_table(clock.rows))
    names = (
        "parts",
        "seconds",
        "backbones",
        "depths",
        "heads",
        "together",
        "images",
        "image_size",
        "batch_size",
        "threads",
    )
    return {
        "benchmark": "gpu",
        "hardware": hardware() | describe_card(device),
        "settings": {name: getattr(flags, name) for name in names},
        "rows": [row.as_values() for row in clock.rows],
    }


def part_works(
    flags: argparse.Namespace, clock: Any, limits: Any, task: Any, backbone: str
) -> list[Callable[[], None]]:
    """The measurements of one backbone, in the order of the table."""
    from benchmarks.accelerator.batches import measure_batches
    from benchmarks.accelerator.heads import measure_heads
    from benchmarks.accelerator.networks import measure_frozen, measure_training
    from benchmarks.accelerator.sharing import measure_sharing

    deepest = flags.depths[-1]
    cached = [depth for depth in flags.depths if depth != "all"][:3:2]
    timed = partial(measure_batches, clock, limits, task, backbone=backbone)
    works: dict[str, list[Callable[[], None]]] = {
        "frozen": [partial(measure_frozen, clock, limits, task, backbone=backbone)],
        "training": [partial(measure_training, clock, limits, task, backbone=backbone, depths=flags.depths)],
        "heads": [partial(measure_heads, clock, limits, task, backbone=backbone, counts=flags.heads)],
        "batches": [
            *(partial(timed, depth=depth, on_activations=True) for depth in cached),
            partial(timed, depth=deepest, on_activations=False),
        ],
        "sharing": [
            partial(measure_sharing, clock, task, backbone=backbone, depth=deepest, counts=flags.together)
        ],
    }
    return [work for part in PARTS if part in flags.parts for work in works.get(part, ())]


def describe_card(device: Any) -> dict[str, Any]:
    """The device, and the versions that its figures depend on."""
    import timm
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "timm": timm.__version__, "device": device.type}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "device_memory_gb": round(properties.total_memory / 1e9, 1),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 means done, 1 that a cell failed, 2 that the flags are wrong or a GPU is missing."""
    try:
        flags = read_flags(argv)
        if missing := why_not(flags.device):
            raise ValueError(missing)
    except ValueError as error:
        print(f"benchmarks gpu: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(flags, Path(folder) / "study")
    if flags.json is not None:
        flags.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps(found))
    return int(any(row["failed"] for row in found["rows"]))


if __name__ == "__main__":
    sys.exit(main())
