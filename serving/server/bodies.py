"""Takes the images out of requests' bodies: raw bytes, multipart forms, base64 in JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from contract.decoding import UnreadableImage, open_header
from contract.model_answers import decode_base64

RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded", "binary/octet-stream")
"""Types of a body that is one image, beside image/*; the third is what `curl --data-binary` says."""

TYPES = "an image (image/* or application/octet-stream), multipart/form-data or application/json"

RUN_BY_OTHERS = ("EPS", "WMF")
"""Formats that Pillow gives to a program of the system: too much trust in what a stranger sends."""

MOST_NAME = 200
"""Characters of a file's name that an answer repeats."""


class RequestError(Exception):
    """A request that cannot be answered, with the HTTP status that says why."""

    def __init__(self, status: int, message: str, **further: Any) -> None:
        super().__init__(message)
        self.status = status
        self.further = further
        """More entries of the answer's JSON."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may bring at most."""

    most_bytes: int = 64 * 2**20
    """Bytes of a request's body."""

    most_images: int = 256
    most_pixels: int = 64 * 10**6
    """Pixels of an image, as its header tells."""


@dataclass(frozen=True, kw_only=True)
class SentImage:
    """An image of a request, not decoded yet."""

    content: bytes
    name: str | None = None
    """Name of the file, of a form that tells it."""

    error: str | None = None
    """Why there is no content."""


def read_images(body: bytes, content_type: str, *, most_images: int) -> list[SentImage]:
    """Take the images out of a body; one image that is no base64 is told in its place.

    Raises:
        RequestError: the type is none of TYPES (415), there are too many images (413), or the body is
            damaged or empty (400).
    """
    if not body:
        raise RequestError(400, f"the request is empty: send {TYPES}")
    kind, parameters = parse_content_type(content_type)
    if kind == "application/json":
        return _read_json(body, most_images)
    if kind == "multipart/form-data":
        return _read_form(body, parameters, most_images)
    if kind in RAW_TYPES or kind.startswith("image/"):
        return [SentImage(content=body)]
    raise RequestError(415, f"Content-Type {kind[:60]} is not read: send {TYPES}")


def parse_content_type(text: str) -> tuple[str, Mapping[str, str]]:
    """Split a header such as `multipart/form-data; boundary=x`: type in small letters, and parameters."""
    message = Message()
    try:
        message["content-type"] = text
        parts = message.get_params(failobj=[("", "")])
    except Exception:  # of whatever a header may hold, the library makes errors of many types
        return text.partition(";")[0].strip().lower(), {}
    (kind, _), *parameters = parts
    plain = {name.lower(): value for name, value in parameters if isinstance(value, str)}
    return kind.strip().lower(), plain


def check_header(content: bytes, *, most_pixels: int) -> None:
    """Look at the header of an image before it is decoded.

    Raises:
        UnreadableImage: the image is too large to be decoded for anybody, or of a format that is not safe.
    """
    try:
        with open_header(io.BytesIO(content)) as image:
            (width, height), kind = image.size, image.format
    except UnreadableImage:
        raise
    except Exception:  # a damaged header may be repaired where the image is decoded, which tells the reason
        return
    if kind in RUN_BY_OTHERS:
        raise UnreadableImage(f"{kind} is not read from strangers: send JPEG or PNG")
    if width * height > most_pixels:
        raise UnreadableImage(
            f"{width} x {height} pixels are more than the {most_pixels / 1e6:g} megapixels that are read"
        )


def _read_json(body: bytes, most_images: int) -> list[SentImage]:
    form = 'send {"image": "base64"} or {"images": ["base64", …]}'
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"no JSON ({_brief(error)}): {form}") from None
    if not isinstance(value, dict):
        raise RequestError(400, f"JSON of type {type(value).__name__}: {form}")
    if strange := [name for name in value if name not in ("image", "images")]:
        raise RequestError(400, f"unknown key {strange[0][:60]!r}: {form}")
    if len(value) != 1:
        raise RequestError(400, f"{len(value)} keys: {form}")
    texts = value.get("images", [value.get("image")])
    if not isinstance(texts, list) or not texts:
        raise RequestError(400, f"images must be a list with at least one image: {form}")
    _check_count(len(texts), most_images)
    return [_decode_text(text) for text in texts]


def _decode_text(text: object) -> SentImage:
    if not isinstance(text, str):
        return SentImage(content=b"", error=f"{type(text).__name__} where base64 is expected")
    try:
        return SentImage(content=decode_base64(text))
    except ValueError as error:
        return SentImage(content=b"", error=_brief(error))


@dataclass
class _Form:
    """What the parser of a multipart form has met."""

    most_parts: int
    parts: list[tuple[dict[str, str], bytearray]] = field(default_factory=list)
    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    is_complete: bool = False

    def callbacks(self) -> dict[str, Callable[..., None]]:
        def begin() -> None:
            _check_count(len(self.parts) + 1, self.most_parts)
            self.parts.append(({}, bytearray()))

        def end_header() -> None:
            name = bytes(self.header).decode("latin-1").lower()
            self.parts[-1][0][name] = bytes(self.value).decode("utf-8", "replace")
            self.header.clear()
            self.value.clear()

        def end() -> None:
            self.is_complete = True

        return {
            "on_part_begin": begin,
            "on_part_data": lambda data, start, stop: self.parts[-1][1].extend(data[start:stop]),
            "on_header_field": lambda data, start, stop: self.header.extend(data[start:stop]),
            "on_header_value": lambda data, start, stop: self.value.extend(data[start:stop]),
            "on_header_end": end_header,
            "on_end": end,
        }


def _read_form(body: bytes, parameters: Mapping[str, str], most_images: int) -> list[SentImage]:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    boundary = parameters.get("boundary", "")
    if not boundary or not boundary.isascii():
        raise RequestError(400, "multipart/form-data without a boundary in its Content-Type")
    form = _Form(most_images)
    try:
        parser = MultipartParser(boundary.encode(), form.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise RequestError(400, f"damaged multipart form: {_brief(error)}") from None
    if not form.is_complete:
        raise RequestError(400, "the multipart form is cut off: its last boundary is missing")
    if not form.parts:
        raise RequestError(400, "the multipart form holds no file")
    return [_make_part(headers, bytes(content)) for headers, content in form.parts]


def _make_part(headers: Mapping[str, str], content: bytes) -> SentImage:
    _, parameters = parse_content_type(headers.get("content-disposition", ""))
    name = parameters.get("filename", parameters.get("name"))
    if encoding := headers.get("content-transfer-encoding", "").strip().lower():
        if encoding == "base64":
            sent = _decode_text(content.decode("latin-1"))
            return SentImage(content=sent.content, name=_cut(name), error=sent.error)
        if encoding not in ("binary", "8bit", "7bit"):
            return SentImage(content=b"", name=_cut(name), error=f"encoding {encoding[:40]} is not read")
    return SentImage(content=content, name=_cut(name))


def _cut(name: str | None) -> str | None:
    return None if name is None else name.encode("utf-8", "replace").decode()[:MOST_NAME]


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise RequestError(
            413, f"more than the {most} images that a request may bring: send several requests"
        )


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def name_rows(sent: Sequence[SentImage], rows: Sequence[dict[str, Any] | str]) -> list[dict[str, Any]]:
    """Join the answers of a request with its images' names.

    Raises:
        RequestError: no image of the request could be read (400).
    """
    named = [
        {"name": one.name, "error": row} if isinstance(row, str) else {"name": one.name, **row}
        for one, row in zip(sent, rows, strict=True)
    ]
    errors = [row for row in rows if isinstance(row, str)]
    if len(errors) == len(named):
        first = errors[0] if len(errors) == 1 else f"none of {len(errors)} images can be read: {errors[0]}"
        raise RequestError(400, first, predictions=named)
    return named
