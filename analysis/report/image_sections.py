"""Sections on images: the most confident mistakes, and the data set with its near-duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from analysis.image_table import SPLITS, ImageTable
from analysis.predictions import Array
from analysis.report.class_sections import MISSING
from analysis.report.findings import Findings
from analysis.report.page import figure, share
from contract.decoding import DeepRange
from contract.files import plural
from contract.html import Section, bullets, details, escape, make_section, make_thumbnail, paragraph, table
from contract.machine import count_cpus

NUM_WRONG = 12
NUM_TWINS = 2
MAX_OPENED = 6000
"""Most images opened for near-duplicates and sizes, at about 2 ms each."""

SHEET_IMAGES = 40
SHOWN_CLASSES = 30
MOST_CLASSES = 100
"""Most classes that figure and table show one by one."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")

MAX_DISTANCE = 12
"""Largest Hamming distance between near-duplicates' hashes of 128 bits."""

MIN_CORRELATION = 0.95
"""Least correlation of near-duplicates at 16 x 16 grey pixels: all plain skies have the same hash."""

BLOCK = 512

WITHOUT_IMAGES = "This page shows no photo: --no-images."


def image_sections(findings: Findings) -> list[Section]:
    """Build the sections on mistakes and on the data together, so that images are opened once."""
    images = findings.images
    looks = look_at(images, choose_images(images))
    twins = find_near_duplicates(looks)
    return [mistakes_section(findings, images, twins), data_section(findings, images, looks, twins)]


def choose_images(images: ImageTable) -> list[int]:
    """Choose ids of validation and training images, never of the test split, which nobody may look at yet."""
    val, train = images.of("val"), images.of("train")
    generator = np.random.default_rng(0)
    val = np.sort(generator.permutation(val)[: MAX_OPENED // 3])
    train = np.sort(generator.permutation(train)[: MAX_OPENED - len(val)])
    return [*val.tolist(), *train.tolist()]


def mistakes_section(findings: Findings, images: ImageTable, twins: Sequence[tuple[int, int]]) -> Section:
    predictions, title = findings.predictions, "Most confidently wrong"
    if predictions is None:
        return make_section("mistakes", title, paragraph(MISSING))
    wrong = np.flatnonzero(~predictions.right)
    if len(wrong) == 0:
        return make_section("mistakes", title, paragraph("Every validation image is classified right."))
    confidence = predictions.log_probabilities[wrong].max(axis=1)
    chosen = wrong[np.argsort(-confidence, kind="stable")][:NUM_WRONG]
    cards = [_wrong_card(findings, images, twins, int(row)) for row in chosen]
    text = f"The {len(cards)} of {plural(len(wrong), 'wrong answer')} with the highest probability. "
    advice = (
        "Look for wrong labels, several objects in one image, and classes that look alike. "
        "Small images below are near-duplicates in training, with their labels."
    )
    gallery = f'<div class="gallery">{"".join(cards)}</div>'
    text += advice if findings.shows_images else WITHOUT_IMAGES
    return make_section("mistakes", title, paragraph(text), gallery)


def _wrong_card(findings: Findings, images: ImageTable, twins: Sequence[tuple[int, int]], row: int) -> str:
    predictions = findings.predictions
    assert predictions is not None
    number, label = int(predictions.ids[row]), int(predictions.labels[row])
    order = np.argsort(-predictions.log_probabilities[row], kind="stable")[:3]
    if label not in order:
        order = np.append(order, label)
    lines = "".join(
        f'<div class="{"right" if one == label else "wrong" if place == 0 else ""}">'
        f"{escape(findings.class_name(int(one)))} {100 * predictions.probabilities[row, one]:.1f}%</div>"
        for place, one in enumerate(order)
    )
    near = [b if a == number else a for a, b in twins if number in (a, b)] if findings.shows_images else []
    near = [one for one in near if images.splits[one] == "train"][:NUM_TWINS]
    small = "".join(
        f"<div>{_image(findings, images, one, side=64)}"
        f"{escape(findings.class_name(int(images.labels[one])))}</div>"
        for one in near
    )
    below = f'<div class="twins">{small}</div>' if near else ""
    name = escape(images.paths[number].name) if number < len(images) else f"image {number}"
    photo = _image(findings, images, number) if findings.shows_images else ""
    return (
        f'<div class="card">{photo}<b>labelled {escape(findings.class_name(label))}</b>'
        f"{lines}<small>{name}</small>{below}</div>"
    )


def _image(findings: Findings, images: ImageTable, number: int, *, side: int = 160) -> str:
    deep = DeepRange(*findings.study.facts.get("deep_range", ()))
    source = make_thumbnail(images.paths[number], side=side, deep=deep) if number < len(images) else None
    if source is None:
        return "<div>(image not found)</div>"
    return f'<img src="{source}" alt="{escape(images.paths[number].name)}" loading="lazy">'


def data_section(
    findings: Findings, images: ImageTable, looks: Looks, twins: Sequence[tuple[int, int]]
) -> Section:
    if not len(images):
        return make_section("data", "Data", paragraph("The study has no data.csv yet."))
    return make_section(
        "data",
        "Data",
        paragraph(_describe_data(findings, images)),
        _class_balance(findings, images),
        "<h3>Sizes, broken files and duplicates</h3>",
        bullets(_check_files(findings, images, looks, twins)),
        _sizes_figure(looks),
        "<h3>Sample of the training images</h3>",
        _sample_sheet(findings, images) if findings.shows_images else paragraph(WITHOUT_IMAGES),
    )


def _describe_data(findings: Findings, images: ImageTable) -> str:
    data = findings.study.facts.get("data") or {}
    counts = ", ".join(f"{(images.splits == split).sum():,} {split}" for split in SPLITS)
    return (
        f"{data.get('source', 'unknown source')}: {len(images):,} images in {len(findings.classes)} "
        f"classes ({counts}). "
        "The test split was not read by the search, nor is it opened here."
    )


def _class_balance(findings: Findings, images: ImageTable) -> str:
    size = max(len(findings.classes), int(images.labels.max()) + 1)
    counts = {split: np.bincount(images.labels[images.splits == split], minlength=size) for split in SPLITS}
    names = [findings.class_name(label) for label in range(size)]
    total = np.sum([counts[split] for split in SPLITS], axis=0)
    least, most = int(total.argmin()), int(total.argmax())
    ratio = total[most] / max(total[least], 1)
    balance = "balanced" if ratio < 1.5 else "somewhat unbalanced" if ratio < 4 else "unbalanced"
    conclusion = (
        f"The classes are {balance}: {names[most]} has {total[most]:,} images, {names[least]} "
        f"{total[least]:,}, a ratio of {ratio:.1f}."
    )
    if ratio >= 1.5:
        conclusion += " Rank by --metric val_balanced_accuracy or val_macro_f1 if rare classes count as much."
    shown, what = list(range(size)), f"table of the {size:,} classes"
    if size > MOST_CLASSES:
        order = np.argsort(-total, kind="stable")
        shown = [*order[: MOST_CLASSES // 2].tolist(), *order[-MOST_CLASSES // 2 :].tolist()]
        what = f"the {len(shown)} largest and smallest of the {size:,} classes"
    rows = [
        (names[i], *(f"{counts[split][i]:,}" for split in SPLITS), share(total[i], total.sum()))
        for i in shown
    ]
    body = table(("class", *(f"{split} [images]" for split in SPLITS), "share"), rows)
    spec = _balance_figure(names, counts) if size <= MOST_CLASSES else _ranked_figure(total)
    below = body if size <= SHOWN_CLASSES else details(what, body)
    return figure(spec, conclusion, title="Images by class", height=340) + below


def _balance_figure(names: list[str], counts: Mapping[str, Array]) -> dict[str, Any]:
    data = [{"type": "bar", "name": split, "x": names, "y": counts[split].tolist()} for split in SPLITS]
    axis = {"type": "category", "title": {"text": "class"}}
    layout: dict[str, Any] = {
        "barmode": "stack",
        "xaxis": axis,
        "yaxis": {"title": {"text": "images [count]"}},
    }
    layout["margin"] = {"t": 20, "r": 20}
    return {"data": data, "layout": layout}


def _ranked_figure(total: Array) -> dict[str, Any]:
    """Draw the classes' sizes from the largest to the smallest: names of hundreds of bars cannot be read."""
    sizes = np.sort(total)[::-1]
    ends = np.flatnonzero(np.diff(sizes, append=-1))  # a step for each size
    starts = np.append(0, ends[:-1] + 1)
    ranks = np.stack([starts + 1, ends + 1], axis=1).ravel()
    line = {"type": "scatter", "mode": "lines", "x": ranks.tolist()}
    line |= {"y": np.repeat(sizes[ends], 2).tolist()}
    layout = {
        "xaxis": {"title": {"text": "class, from the largest to the smallest"}},
        "yaxis": {"title": {"text": "images [count]"}, "rangemode": "tozero"},
        "margin": {"t": 20, "r": 20},
    }
    return {"data": [line], "layout": layout}


def _check_files(
    findings: Findings, images: ImageTable, looks: Looks, twins: Sequence[tuple[int, int]]
) -> list[str]:
    lines = []
    opened = len(looks.ids) + len(looks.unreadable)
    if len(looks.sizes):
        width, height = looks.sizes.T
        lines.append(
            f"Sizes: {width.min()} x {height.min()} to {width.max()} x {height.max()} px, median "
            f"{np.median(width):.0f} x {np.median(height):.0f}; the network sees "
            f"{findings.study.facts.get('image_size')} x {findings.study.facts.get('image_size')}."
        )
    if looks.unreadable:
        first = images.paths[looks.unreadable[0]]
        lines.append(f"{plural(len(looks.unreadable), 'image')} cannot be opened now, the first: {first}.")
    lines += [*findings.notes, *_left_out(findings, images)]
    pairs = np.array(twins, dtype=np.int64).reshape(-1, 2)
    if len(looks.ids):
        lines += _describe_twins(findings, images, pairs, opened)
    return lines


def _left_out(findings: Findings, images: ImageTable) -> list[str]:
    """Name the images that cannot be read; where a study has no notes, list the unused files."""
    data = findings.study.facts.get("data") or {}
    if findings.left_out:
        return [f"Left out: {findings.left_out}."]
    if findings.notes:
        return []
    source = Path(str(data.get("source", "")))
    if not source.is_dir():
        return []
    used = {path.resolve() for path in images.paths}
    unused = sorted(
        path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.resolve() not in used
    )
    if not unused:
        return ["Every image file of the folder is used; none is broken."]
    names = ", ".join(path.name for path in unused[:5])
    return [f"{plural(len(unused), 'image file')} of the folder not used (broken, or repeated): {names}"]


def _describe_twins(findings: Findings, images: ImageTable, pairs: Array, opened: int) -> list[str]:
    among = f"among {opened:,} training and validation images"
    if not len(pairs):
        return [f"No near-duplicates {among}."]
    first, second = images.splits[pairs[:, 0]], images.splits[pairs[:, 1]]
    lines = [f"{plural(len(pairs), 'pair')} of near-duplicates {among}."]
    across = int((first != second).sum())
    if across:
        leaked = {int(a if images.splits[a] == "val" else b) for a, b in pairs[first != second].tolist()}
        leaked_share = share(len(leaked), max(int((images.splits == "val").sum()), 1))
        lines.append(
            f"{plural(len(leaked), 'validation image')} ({leaked_share}) have a near-duplicate in training, "
            "which makes validation figures a little too good."
        )
    torn = pairs[images.labels[pairs[:, 0]] != images.labels[pairs[:, 1]]]
    if len(torn):
        examples = "; ".join(
            f"{images.paths[a].name} is {findings.class_name(int(images.labels[a]))}, "
            f"{images.paths[b].name} is {findings.class_name(int(images.labels[b]))}"
            for a, b in torn[:5].tolist()
        )
        lines.append(f"{plural(len(torn), 'pair')} with two different labels: {examples}.")
    return lines


def _sizes_figure(looks: Looks) -> str:
    if not len(looks.sizes):
        return ""
    sizes, counts = np.unique(looks.sizes, axis=0, return_counts=True)
    if len(sizes) < 2:
        return ""
    points: dict[str, Any] = {"type": "scatter", "mode": "markers"}
    points |= {"x": sizes[:, 0].tolist(), "y": sizes[:, 1].tolist()}
    points["text"] = [f"{count:,} images" for count in counts.tolist()]
    points["marker"] = {"size": np.clip(4 + np.sqrt(counts), 4, 30).round(1).tolist(), "opacity": 0.6}
    layout = {
        "xaxis": {"title": {"text": "width [px]"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "height [px]"}, "rangemode": "tozero"},
        "margin": {"t": 20, "r": 20},
    }
    text = (
        "Larger points hold more images. What is smaller than the network's input is enlarged, and blurred."
    )
    return figure({"data": [points], "layout": layout}, text, title="Image sizes", height=340)


def _sample_sheet(findings: Findings, images: ImageTable) -> str:
    """Draw the same number of images of each class with a fixed seed; the first classes if there are many."""
    generator = np.random.default_rng(0)
    train = images.of("train")
    classes = np.unique(images.labels[train])[:SHEET_IMAGES]
    each = max(1, min(8, SHEET_IMAGES // max(len(classes), 1)))
    chosen = [
        number
        for label in classes
        for number in generator.permutation(train[images.labels[train] == label])[:each].tolist()
    ]
    names = [escape(findings.class_name(int(images.labels[one]))) for one in chosen]
    cards = "".join(
        f'<div class="card">{_image(findings, images, one, side=96)}{name}</div>'
        for one, name in zip(chosen, names, strict=True)
    )
    return f'<div class="gallery small">{cards}</div>'


@dataclass(frozen=True, eq=False)
class Looks:
    """Features for finding near-duplicates: one row an image in each array."""

    ids: Array
    hashes: Array
    """[images, 2] uint64: bits say which of 8 x 8 pixels are darker than their right and lower neighbours."""

    greys: Array
    """[images, 256] float32, mean 0 and length 1."""

    sizes: Array
    """Width and height in pixels, [images, 2]."""

    unreadable: tuple[int, ...]
    """Ids of images that could not be opened now."""


def look_at(table: ImageTable, ids: Sequence[int]) -> Looks:
    """Compute the features of each image, which takes about 2 ms."""
    with ThreadPoolExecutor(max_workers=min(4, count_cpus())) as pool:
        looks = list(pool.map(_look, [table.paths[number] for number in ids]))
    good = [(number, look) for number, look in zip(ids, looks, strict=True) if look is not None]
    return Looks(
        ids=np.array([number for number, _ in good], dtype=np.int64),
        hashes=np.array([look[0] for _, look in good], dtype=np.uint64).reshape(-1, 2),
        greys=np.array([look[1] for _, look in good], dtype=np.float32).reshape(-1, 256),
        sizes=np.array([look[2] for _, look in good], dtype=np.int64).reshape(-1, 2),
        unreadable=tuple(number for number, look in zip(ids, looks, strict=True) if look is None),
    )


def _look(path: Path) -> tuple[Array, Array, tuple[int, int]] | None:
    try:
        with Image.open(path) as image:
            size = image.size
            image.draft("L", (64, 64))
            grey = image.convert("L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    nine = np.asarray(grey.resize((9, 9), Image.Resampling.BOX), dtype=np.int16)
    bits = np.concatenate([(nine[:8, :8] < nine[:8, 1:]).ravel(), (nine[:8, :8] < nine[1:, :8]).ravel()])
    small = np.asarray(grey.resize((16, 16), Image.Resampling.BOX), dtype=np.float32).ravel()
    small = small - small.mean()
    return np.packbits(bits).view(np.uint64), small / max(float(np.linalg.norm(small)), 1e-6), size


def find_near_duplicates(looks: Looks) -> list[tuple[int, int]]:
    """Find pairs of image ids that look the same: the same file, another size, format or slight crop."""
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(looks.ids), BLOCK):
        block = looks.hashes[start : start + BLOCK]
        different = np.bitwise_count(block[:, None, :] ^ looks.hashes[None, start:, :]).sum(axis=2)
        near = np.argwhere(different <= MAX_DISTANCE)
        near = near[near[:, 0] < near[:, 1]] + start
        alike = (looks.greys[near[:, 0]] * looks.greys[near[:, 1]]).sum(axis=1) >= MIN_CORRELATION
        pairs += [(int(looks.ids[a]), int(looks.ids[b])) for a, b in near[alike]]
    return pairs
