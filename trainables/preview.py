"""Draws a contact sheet of the views that an augmentation policy makes of the user's own images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from contract.decoding import FULL_RANGE, Fit
from contract.environment import expand, usual_cache_dir
from contract.trial_config import TrialConfig
from trainables.data.augmentation import to_bytes
from trainables.data.datasets import ImageListing, find_images
from trainables.data.mixing import Mix
from trainables.data.policies import find_policy, names
from trainables.data.views import storage_size
from trainables.images.decoding import decode_files
from trainables.images.split_view import SplitView, ViewSettings, view_id
from trainables.images.store import ImageStore
from trainables.images.survey import find_deep_range

MARGIN, LINE = 4, 14
"""Pixels between pictures, and the height of a line of text."""

CPU = torch.device("cpu")
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit codes are 0 done, 2 the flags are wrong."""
    flags = _make_parser().parse_args(argv)
    try:
        print(write_sheet(flags))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainables preview",
        description="Rows are images; columns are the original and its view in each of the first epochs, "
        "the very ones that trials with the same seed see.",
    )
    cache = usual_cache_dir()
    parser.add_argument("--policy", required=True, metavar="NAME", help=f"one of {', '.join(names())}")
    parser.add_argument("--data", required=True, metavar="NAME|PATH", help="as for tune.py")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the picture to write")
    parser.add_argument("--images", type=_positive, default=6, metavar="N", help="rows (default: 6)")
    parser.add_argument("--epochs", type=_positive, default=6, metavar="N", help="views (default: 6)")
    parser.add_argument("--image-size", type=_positive, default=128, metavar="PX", help="(default: 128)")
    parser.add_argument("--fit", choices=get_args(Fit), default="crop", help="(default: crop)")
    parser.add_argument("--mix", choices=("none", "mixup", "cutmix"), default="none")
    parser.add_argument("--mix-alpha", type=float, default=1.0, metavar="X", help="(default: 1)")
    parser.add_argument("--mix-share", type=float, default=1.0, metavar="X", help="(default: 1)")
    parser.add_argument("--cutmix-min", type=float, default=0.0, metavar="X", help="(default: 0)")
    parser.add_argument("--cutmix-max", type=float, default=1.0, metavar="X", help="(default: 1)")
    parser.add_argument(
        "--mix-within-class", action="store_true", help="partners of the image's own class only"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--cache-dir", type=Path, default=cache, help=f"(default: {cache})")
    return parser


def _positive(value: str) -> int:
    if not value.isdigit() or int(value) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {value!r}")
    return int(value)


def write_sheet(flags: argparse.Namespace) -> str:
    """Write the picture, and say what it shows.

    Raises:
        ValueError: no such policy, no such data, no readable image, or a picture format that is none.
    """
    find_policy(flags.policy)
    mixing = {name: getattr(flags, name) for name in ("mix_alpha", "mix_share", "cutmix_min", "cutmix_max")}
    TrialConfig(backbone="any", **mixing)  # for its checks
    mix = Mix(
        kind=flags.mix,
        alpha=flags.mix_alpha,
        mixed_share=flags.mix_share,
        smallest_side=flags.cutmix_min,
        largest_side=flags.cutmix_max,
        within_class=flags.mix_within_class,
    )
    listing = find_images(flags.data, cache_dir=expand(flags.cache_dir))
    split = load_sample(listing, num=flags.images, size=flags.image_size, fit=flags.fit, seed=flags.seed)
    plain = ViewSettings(policy="none", image_size=flags.image_size, fit=flags.fit, seed=flags.seed)
    view = ViewSettings(
        policy=flags.policy, image_size=flags.image_size, fit=flags.fit, seed=flags.seed, mix=mix
    )
    columns = [("original", plain, 0), *((f"epoch {n}", view, n) for n in range(1, flags.epochs + 1))]
    make_sheet(split, columns, classes=listing.classes).save(flags.out)
    return f"{flags.out}: {len(split)} images, each as it is and in {flags.epochs} views of {flags.policy!r}"


def load_sample(listing: ImageListing, *, num: int, size: int, fit: Fit, seed: int) -> SplitView:
    """Read `num` images, one of each class in turn.

    Raises:
        ValueError: none of the first ones can be read.
    """
    random = np.random.default_rng(seed)
    labels = np.asarray(listing.labels)
    shuffled = random.permutation(len(labels))
    ranks = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        ranks[members] = np.arange(len(members))
    chosen = np.lexsort((labels, ranks))[: 2 * num]  # twice as many: some may be damaged
    deep = find_deep_range(listing.paths) or FULL_RANGE
    pixels, facts = decode_files([listing.paths[at] for at in chosen], storage_size(size, fit), fit, deep)
    good = np.flatnonzero([fact.ok for fact in facts])[:num]
    if not len(good):
        raise ValueError(f"none of {len(chosen)} images can be read, the first because: {facts[0].reason}")
    return SplitView(
        store=ImageStore(images=pixels, facts=tuple(facts), key="preview", path=None),
        ids=good,
        labels=torch.from_numpy(labels[chosen[good]]).long(),
        num_classes=len(listing.classes),
        view_ids=np.array([view_id(facts[at].digest) for at in good], dtype=np.int64),
        copies=np.zeros(len(good), dtype=np.int64),
        digest="preview",
    )


def make_sheet(
    split: SplitView, columns: Sequence[tuple[str, ViewSettings, int]], *, classes: Sequence[str]
) -> Image.Image:
    """Draw a row for each image, with its targets below, and a column for each (title, view, epoch)."""
    size = columns[0][1].image_size
    width, height = size + MARGIN, size + LINE + MARGIN
    whole = (len(columns) * width + MARGIN, len(split) * height + LINE + 2 * MARGIN)
    sheet = Image.new("RGB", whole, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    positions = np.arange(len(split))
    for column, (title, view, epoch) in enumerate(columns):
        left = MARGIN + column * width
        draw.text((left, MARGIN), title, "black", font)
        pictures = to_bytes(view.images(split, positions, epoch=epoch, device=CPU)).numpy()
        targets = view.targets(split, positions, epoch=epoch).numpy()
        for row, (picture, target) in enumerate(zip(pictures, targets, strict=True)):
            top = LINE + 2 * MARGIN + row * height
            sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (left, top))
            label = _fit_text(describe_target(target, classes), font, size)
            draw.text((left, top + size), label, "black", font)
    return sheet


def describe_target(target: NDArray[np.generic], classes: Sequence[str]) -> str:
    """Name the class, or each class with its share: "62 % rose, 38 % tulip"."""
    if target.ndim == 0:
        return classes[int(target)]
    shares = sorted(zip(target.tolist(), classes, strict=True), key=lambda pair: -pair[0])
    shown = [(share, name) for share, name in shares if share >= 0.005]
    return ", ".join(f"{share:.0%} {name}" for share, name in shown) if len(shown) > 1 else shown[0][1]


def _fit_text(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    lengths = range(len(text), 0, -1)
    return next((text[:n] + "…" for n in lengths if font.getlength(text[:n] + "…") <= width), "")
