"""Requests that a careless or a hostile client may send: mutated images, forms and JSON."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator

from tests.tiny_models import make_noise

FORMATS = (
    ("JPEG", "RGB"),
    ("PNG", "RGBA"),
    ("GIF", "P"),
    ("BMP", "RGB"),
    ("TIFF", "I;16"),
    ("WEBP", "RGB"),
    ("PPM", "L"),
)
BOUNDARY = "x0123456789x"
TYPES = (
    "", "image/jpeg", "image/*", "application/octet-stream", "application/json", "multipart/form-data",
    f"multipart/form-data; boundary={BOUNDARY}", f'multipart/form-data; boundary="{BOUNDARY}"; charset=utf-8',
    "multipart/form-data; boundary=", "text/html", "application/json; charset=utf-16", "image", ";",
    "a/b; c=\x7f", "application/x-www-form-urlencoded",
)  # fmt: skip


def make_form(files: list[tuple[str, bytes]]) -> bytes:
    """Make the body of a multipart form with files and their names."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def make_seeds() -> list[bytes]:
    """Make right bodies of every kind, to be mutated."""
    files = [make_noise(number, kind=format, mode=mode) for number, (format, mode) in enumerate(FORMATS)]
    texts = [base64.b64encode(content).decode() for content in files]
    forms = [make_form([("a.jpg", files[0])]), make_form([(f"{n}.png", one) for n, one in enumerate(files)])]
    values = [{"image": texts[0]}, {"images": texts}, {"images": ["data:image/png;base64," + texts[1]]}]
    return [*files, *forms, *(json.dumps(value).encode() for value in values)]


def mutate(body: bytes, rng: random.Random) -> bytes:
    """Damage a body: cut it, flip bytes, repeat, drop or insert a piece, or do so several times."""
    found = bytearray(body)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not found:
            break
        at, length = rng.randrange(len(found)), rng.choice((1, 2, 4, 16, 200))
        kind = rng.randrange(7)
        if kind == 0:
            del found[at:]
        elif kind == 1:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del found[at : at + length]
        elif kind == 3:
            found[at:at] = rng.randbytes(length)
        elif kind == 4:
            found[at : at + length] = b"\xff" * length
        elif kind == 5:
            found[at:at] = found[: length * 10]
        else:
            head = min(len(found), 64)  # where sizes and types stand
            found[rng.randrange(head)] = rng.randrange(256)
    return bytes(found)


def fuzz(count: int, *, seed: int = 0) -> Iterator[tuple[bytes, str]]:
    """Yield bodies with types of content, the right ones and others."""
    rng, seeds = random.Random(seed), make_seeds()
    for _ in range(count):
        at = rng.randrange(len(seeds))
        right = (
            "image/png" if at < len(FORMATS) else TYPES[6] if at < len(FORMATS) + 2 else "application/json"
        )
        yield mutate(seeds[at], rng), right if rng.random() < 0.8 else rng.choice(TYPES)
