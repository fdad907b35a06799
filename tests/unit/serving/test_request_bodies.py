"""Images are taken out of bodies of every kind, and whatever else is sent gets a 4xx with its reason."""

import base64
import json

import pytest

from contract.decoding import UnreadableImage
from serving.server.bodies import (
    RequestError,
    SentImage,
    check_header,
    name_rows,
    parse_content_type,
    read_images,
)
from tests.fuzzed_bodies import BOUNDARY, fuzz, make_form
from tests.tiny_models import make_noise

FORM = f"multipart/form-data; boundary={BOUNDARY}"
PHOTO = make_noise(0)


def read(body: bytes, content_type: str = "image/jpeg", most: int = 50) -> list[SentImage]:
    return read_images(body, content_type, most_images=most)


@pytest.mark.parametrize(
    "kind", ["", "image/jpeg", "IMAGE/PNG", "application/octet-stream", "application/x-www-form-urlencoded"]
)
def test_a_raw_body_is_one_image(kind: str) -> None:
    assert read(PHOTO, kind) == [SentImage(content=PHOTO)]


def test_a_form_brings_files_with_their_names_in_order() -> None:
    body = make_form([("rosé 1.jpg", PHOTO), ("2.png", b"second\r\n--"), ("", b"")])

    assert [(one.name, one.content) for one in read(body, FORM)] == [
        ("rosé 1.jpg", PHOTO),
        ("2.png", b"second\r\n--"),
        ("", b""),
    ]


def test_a_form_of_mail_programs_may_bring_base64() -> None:
    lines = (f"--{BOUNDARY}", 'Content-Disposition: form-data; name="x"', "Content-Transfer-Encoding: base64")
    body = (
        "\r\n".join((*lines, "", "")).encode()
        + base64.encodebytes(PHOTO)
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    )

    assert read(body, FORM) == [SentImage(content=PHOTO, name="x")]


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(PHOTO).decode(),
        base64.urlsafe_b64encode(PHOTO).decode(),
        base64.encodebytes(PHOTO).decode(),
        base64.b64encode(PHOTO).decode().rstrip("="),
        "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode(),
        "\n  " + base64.encodebytes(PHOTO).decode().replace("\n", "\r\n"),
    ],
)
def test_base64_is_read_however_it_was_written(text: str) -> None:
    for value in ({"image": text}, {"images": [text]}):
        assert read(json.dumps(value).encode(), "application/json; charset=utf-8") == [
            SentImage(content=PHOTO)
        ]


def test_text_that_is_no_base64_is_told_in_its_place() -> None:
    good = base64.b64encode(PHOTO).decode()

    bad, number, right = read(json.dumps({"images": ["§§", 7, good]}).encode(), "application/json")

    assert bad.error and "base64" in bad.error
    assert number.error and "int" in number.error
    assert right == SentImage(content=PHOTO)


@pytest.mark.parametrize(
    ("body", "kind", "status", "reason"),
    [
        (b"", "image/jpeg", 400, "empty"),
        (PHOTO, "text/html", 415, "text/html"),
        (b"{", "application/json", 400, "JSON"),
        (b"[" * 100_000, "application/json", 400, "JSON"),
        (b"\xff\xfe", "application/json", 400, "JSON"),
        (b"[1]", "application/json", 400, "list"),
        (b"{}", "application/json", 400, "keys"),
        (b'{"images": []}', "application/json", 400, "at least one"),
        (b'{"images": "x"}', "application/json", 400, "list"),
        (b'{"inputs": ["x"]}', "application/json", 400, "inputs"),
        (b'{"image": "x", "images": ["x"]}', "application/json", 400, "2 keys"),
        (b'{"images": [' + b'"",' * 60 + b'""]}', "application/json", 413, "50"),
        (make_form([]), FORM, 400, "form"),
        (make_form([("a", PHOTO)])[:-20], FORM, 400, "cut off"),
        (make_form([("a", PHOTO)]), "multipart/form-data", 400, "boundary"),
        (make_form([("a", PHOTO)] * 51), FORM, 413, "50"),
        (b"nothing of a form", FORM, 400, "form"),
    ],
)
def test_a_body_that_cannot_be_read_gets_its_reason(body: bytes, kind: str, status: int, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(body, kind)

    assert caught.value.status == status
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_three_thousand_mutated_bodies_each_is_read_or_refused() -> None:
    statuses = []
    for body, kind in fuzz(3000):
        try:
            found = read(body, kind)
            assert found and all(isinstance(one.content, bytes) for one in found)
            statuses.append(200)
        except RequestError as error:
            assert 400 <= error.status < 500
            assert str(error) and "\n" not in str(error)
            json.dumps(str(error)).encode()
            statuses.append(error.status)

    assert {200, 400, 415} <= set(statuses)


@pytest.mark.parametrize(
    "text", ["", ";", "a;b=c;", "\x00", "multipart/form-data; boundary*=utf-8''x", "é/é" * 99]
)
def test_any_content_type_is_taken_apart(text: str) -> None:
    kind, parameters = parse_content_type(text)

    assert isinstance(kind, str)
    assert all(isinstance(value, str) for value in parameters.values())


def test_an_image_is_judged_by_its_header_before_it_is_decoded() -> None:
    large = make_noise(0, side=300, kind="PNG")

    check_header(large, most_pixels=90_000)
    check_header(b"no image", most_pixels=90_000)  # which the decoder tells
    with pytest.raises(UnreadableImage, match=r"300 x 300 pixels are more than the 0\.08 megapixels"):
        check_header(large, most_pixels=80_000)
    with pytest.raises(UnreadableImage, match="EPS"):
        check_header(make_noise(0, kind="EPS"), most_pixels=90_000)


def test_one_bad_image_costs_the_others_nothing_and_all_bad_are_refused() -> None:
    sent = [SentImage(content=b"", name="a"), SentImage(content=b"", name="b")]

    assert name_rows(sent, [{"label": "rose"}, "no image"]) == [
        {"name": "a", "label": "rose"},
        {"name": "b", "error": "no image"},
    ]
    with pytest.raises(RequestError, match="none of 2 images can be read: no image") as caught:
        name_rows(sent, ["no image", "empty"])
    assert caught.value.status == 400
    assert [row["error"] for row in caught.value.further["predictions"]] == ["no image", "empty"]
