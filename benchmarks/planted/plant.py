"""Plants faults into a copy of a data set: changed labels, near copies across splits and foreign images.

The copy is a folder SPLIT/CLASS/FILE whose files are links to the originals, with `truth.json` beside it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

SPLITS = ("train", "val", "test")
SHARES = (0.7, 0.15, 0.15)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
GENERATED = ("text", "noise", "flat", "drawing")


@dataclass
class Truth:
    """What was planted; paths are relative to the copy's folder."""

    seed: int
    relabelled: dict[str, str] = field(default_factory=dict)
    """Path -> the class that it had."""

    copies: list[tuple[str, str]] = field(default_factory=list)
    """(the copy, the original), in different splits."""

    foreign: list[str] = field(default_factory=list)
    originals: dict[str, str] = field(default_factory=dict)
    """Path -> path in the source, of every image that was there before."""

    @property
    def copies_and_foreign(self) -> list[str]:
        """Paths of the files that were added."""
        return [*(copy for copy, _ in self.copies), *self.foreign]


def find_photos(folder: Path) -> list[tuple[str, Path]]:
    """(class, file) of every photo below FOLDER/CLASS or FOLDER/SPLIT/CLASS, sorted."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    return sorted((path.parent.name, path) for path in found)


def plant_faults(
    source: Path,
    target: Path,
    *,
    seed: int,
    relabelled: float = 0.05,
    copies: float = 0.03,
    foreign: float = 0.02,
    others: Sequence[Path] = (),
    limit: int | None = None,
) -> Truth:
    """Write the copy into the empty folder `target`; the shares are of the source's images.

    Args:
        others: folders whose photos are foreign here; half of the foreign images, the rest are generated.
        limit: most images of the source to use.
    """
    random = np.random.default_rng(seed)
    photos = find_photos(source)
    chosen = random.permutation(len(photos))[:limit]
    classes = sorted({name for name, _ in photos})
    truth = Truth(seed)
    num_relabelled, num_copies, num_foreign = (
        round(share * len(chosen)) for share in (relabelled, copies, foreign)
    )
    for place, number in enumerate(chosen):
        name, path = photos[number]
        given = name
        if place < num_relabelled:
            given = str(random.choice([other for other in classes if other != name]))
        split = str(random.choice(SPLITS, p=SHARES))
        linked = f"{split}/{given}/{number:05d}{path.suffix.lower()}"
        _link(path, target / linked)
        truth.originals[linked] = str(path.relative_to(source))
        if place < num_relabelled:
            truth.relabelled[linked] = name
        elif place < num_relabelled + num_copies:
            other = str(random.choice([other for other in SPLITS if other != split]))
            content, suffix = make_near_copy(path, random)
            copy = f"{other}/{given}/copy{number:05d}{suffix}"
            _write(target / copy, content)
            truth.copies.append((copy, linked))
    strangers = [path for folder in others for _, path in find_photos(folder)]
    for number in range(num_foreign):
        split, given = str(random.choice(SPLITS, p=SHARES)), str(random.choice(classes))
        if strangers and number % 2:
            path = strangers[random.integers(len(strangers))]
            planted = f"{split}/{given}/foreign{number:05d}{path.suffix.lower()}"
            _link(path, target / planted)
        else:
            kind = GENERATED[number // 2 % len(GENERATED)]
            planted = f"{split}/{given}/foreign{number:05d}.png"
            _write(target / planted, _encode(generate_image(kind, random), "PNG", 90))
        truth.foreign.append(planted)
    (target / "truth.json").write_text(json.dumps(asdict(truth), indent=1), encoding="utf-8")
    return truth


def make_near_copy(path: Path, random: np.random.Generator) -> tuple[bytes, str]:
    """Crop up to 5 % a side, resize 0.5 to 2 times, change brightness and contrast, encode anew."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    left, top, right, bottom = random.uniform(0, 0.05, 4)
    width, height = image.size
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    image = image.crop(tuple(round(side) for side in box))
    scale = 2 ** random.uniform(-1, 1)
    sides = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(sides, random.choice([Image.Resampling.BICUBIC, Image.Resampling.BILINEAR]))
    image = ImageEnhance.Brightness(image).enhance(random.uniform(0.85, 1.15))
    image = ImageEnhance.Contrast(image).enhance(random.uniform(0.85, 1.15))
    name = str(random.choice(sorted(FORMATS)))
    return _encode(image, name, int(random.integers(30, 96))), FORMATS[name]


def generate_image(kind: str, random: np.random.Generator, *, side: int = 200) -> Image.Image:
    """Draw a picture that is no photo: a page of text, noise, one colour or a drawing."""
    if kind == "noise":
        return Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
    if kind == "flat":
        return Image.new("RGB", (side, side), _draw_colour(random))
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    if kind == "text":
        for line in range(6, side - 10, 12):
            letters = (chr(97 + letter) if letter < 26 else " " for letter in random.integers(0, 32, 34))
            draw.text((6, line), "".join(letters), "black")
        return image
    for _ in range(8):
        x, y = np.sort(random.integers(0, side, (2, 2)), axis=1).tolist()
        shape = draw.rectangle if random.random() < 0.5 else draw.ellipse
        shape((x[0], y[0], x[1], y[1]), fill=_draw_colour(random), outline="black")
    return image


def _draw_colour(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = random.integers(0, 256, 3).tolist()
    return red, green, blue


def _encode(image: Image.Image, name: str, quality: int) -> bytes:
    stream = io.BytesIO()
    options: dict[str, Any] = {} if name == "PNG" else {"quality": quality}
    image.save(stream, format=name, **options)
    return stream.getvalue()


def _link(path: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path.absolute())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
