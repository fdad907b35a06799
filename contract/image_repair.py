"""Odd but whole image files: the same picture without metadata, and with the end that a file lacks.

Nothing here decodes: it rearranges bytes for a second attempt, where a decoder has refused the first.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

END_OF_JPEG = b"\xff\xd9"
FILLERS = (b"\0" * 4096, b"\xfe" * 4096, b"\x6b" * 4096)
"""Endings in place of a missing one. A picture that is complete does not depend on which; of one that lacks
data, its decoder takes them for data: 4096 bytes are more than any ten blocks of a JPEG take."""

LONGEST_RUN = 256
"""Equal bytes at the end of a JPEG from which they are taken for the rest of a file that was never written:
compressed data end so only where a third of a megapixel is of one colour."""

MOST_MISSING = 1024
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf")
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_PNG_TURNED = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Names of the texts that may hold an orientation."""

_TIFF_PICTURE = {*range(254, 260), 262, 266, *range(273, 280), *range(282, 286), 292, 293, 296, 301}
_TIFF_PICTURE |= {*range(317, 326), 332, *range(336, 342), 347, *range(529, 533), 559}
"""Tags that say how the pixels are stored; 274, among them, is the orientation."""


@dataclass(frozen=True)
class Repair:
    """Contents to decode in place of a refused one: all must give the same pixels, or it is no repair."""

    contents: tuple[bytes, ...]
    is_cleaned: bool
    """Metadata are left out."""


def repairs(content: bytes) -> Iterator[Repair]:
    """Yield what may be the same picture: with an end, with less and less metadata, or with both."""
    yield from _complete(content, is_cleaned=False)
    try:
        if content[:4] in (b"II*\0", b"MM\0*"):
            for tags in (_TIFF_PICTURE, _TIFF_PICTURE - {274}):
                contents = tuple(_bare_tiff(content + filler, tags) for filler in FILLERS)
                yield Repair(contents, is_cleaned=True)
            return
        for bare in _without_metadata(content):
            yield Repair((bare,), is_cleaned=True)
            yield from _complete(bare, is_cleaned=True)
    except (struct.error, IndexError):
        return  # not even its parts can be told apart


def lacks_end(content: bytes) -> bool:
    """Whether a JPEG has no end marker behind its data."""
    return not content.endswith(END_OF_JPEG) and content.rfind(END_OF_JPEG) < content.rfind(b"\xff\xda")


def _complete(content: bytes, *, is_cleaned: bool) -> Iterator[Repair]:
    """Yield a file with different endings in place of one that it lacks, where there is a way."""
    if content.startswith(b"\xff\xd8"):
        end = -1 if lacks_end(content) else content.rfind(END_OF_JPEG)
        body = (content if end < 0 else content[:end]).rstrip(b"\xff")
        if len(body) - len(body.rstrip(body[-1:])) < LONGEST_RUN:
            yield Repair(tuple(body + filler + END_OF_JPEG for filler in (b"", *FILLERS[1:])), is_cleaned)
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        missing = 8 + int.from_bytes(content[4:8], "little") - len(content)
        if 0 < missing <= MOST_MISSING:
            yield Repair(tuple(content + filler[:1] * missing for filler in FILLERS), is_cleaned)
    elif content and not content.startswith(_PNG):  # a PNG is decoded without its end
        yield Repair(tuple(content + filler for filler in FILLERS), is_cleaned)


def _without_metadata(content: bytes) -> Iterator[bytes]:
    if content.startswith(_PNG):
        yield from (_bare_png(content, keep_orientation=keep) for keep in (True, False))
    elif content.startswith(b"\xff\xd8"):
        yield from (_bare_jpeg(content, kept) for kept in ((0xE0, 0xE1, 0xEE), (0xE0, 0xEE)))
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        yield _bare_webp(content)


def _bare_png(content: bytes, *, keep_orientation: bool) -> bytes:
    kept, at = [_PNG], len(_PNG)
    while at + 8 <= len(content):
        length, name = struct.unpack(">I4s", content[at : at + 8])
        chunk = content[at : at + 12 + length]
        may_turn = name == b"eXIf" or (name in _PNG_TEXT and chunk[8:].startswith(_PNG_TURNED))
        if name == b"IEND":
            break
        if len(chunk) < 12 + length:  # what follows the cut must not be taken for data
            data = chunk[8 : 8 + length]
            chunk = struct.pack(">I4s", len(data), name) + data + struct.pack(">I", zlib.crc32(name + data))
        if (name in _PNG_PICTURE and not may_turn) or (may_turn and keep_orientation):
            kept.append(chunk)
        at += 12 + length
    return b"".join([*kept, b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))])


def _bare_jpeg(content: bytes, kept_segments: tuple[int, ...]) -> bytes:
    """Leave out the segments of applications but some, and comments; 0xEE tells how colours are stored."""
    kept, at = [b"\xff\xd8"], 2
    while content[at] == 0xFF and content[at + 1] != 0xDA:
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        length = 2 + struct.unpack(">H", content[at + 2 : at + 4])[0]
        if marker in kept_segments or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(content[at : at + length])
        at += length
    return b"".join([*kept, content[at:]])


def _bare_tiff(content: bytes, tags: set[int]) -> bytes:
    """Keep the given tags of the first picture."""
    order = "<" if content[:2] == b"II" else ">"
    start = struct.unpack(f"{order}I", content[4:8])[0]
    count = struct.unpack(f"{order}H", content[start : start + 2])[0]
    entries = [content[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    kept = [entry for entry in entries if struct.unpack(f"{order}H", entry[:2])[0] in tags]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + b"\0\0\0\0"
    padded = content + b"\0" * (len(content) % 2)
    return padded[:4] + struct.pack(f"{order}I", len(padded)) + padded[8:] + directory


def _bare_webp(content: bytes) -> bytes:
    kept, at = [b"WEBP"], 12
    while at + 8 <= len(content):
        name, length = struct.unpack("<4sI", content[at : at + 8])
        chunk = content[at : at + 8 + length + length % 2]
        if name == b"VP8X":  # whose flags announce profile, Exif and XMP
            chunk = chunk[:8] + bytes([chunk[8] & ~0x2C]) + chunk[9:]
        if name not in (b"EXIF", b"XMP ", b"ICCP"):
            kept.append(chunk)
        at += len(chunk)
    body = b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body
