"""The shell of every HTML page."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.html import (
    bullets,
    data_script,
    details,
    escape,
    make_section,
    make_thumbnail,
    paragraph,
    render_page,
    table,
)

NASTY = '<script>alert("x")</script>&\'"'


class Outline(HTMLParser):
    """Tags of a page in order, its text, and whether every tag that is opened is closed."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def thumbnail_of(content: bytes, **options: int) -> Image.Image:
    uri = make_thumbnail(content, **options)
    assert uri is not None and uri.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_a_page_has_its_title_its_sections_and_closes_what_it_opens() -> None:
    sections = [
        make_section("one", "One", paragraph("first")),
        make_section("two", "Two", "", "<p>second</p>"),
    ]

    page = render_page("study: report", sections, style=".mine { color: red; }", scripts=["let a = 1;"])
    outline = Outline(page)

    assert page.startswith("<!DOCTYPE html>")
    assert outline.open == []
    assert [outline.tags.count(tag) for tag in ("section", "h1", "h2", "nav", "script")] == [2, 1, 2, 1, 1]
    assert 'href="#one"' in page and 'id="one"' in page
    assert page.index("--accent") < page.index(".mine")
    assert page.index("second") < page.index("let a = 1;")


def test_a_page_of_one_section_has_no_navigation_and_without_scripts_none() -> None:
    tags = Outline(render_page("title", [make_section("one", "One", "body")])).tags

    assert "nav" not in tags and "script" not in tags


def test_a_page_asks_no_server_for_anything() -> None:
    page = render_page("title", [make_section("one", "One", "body")], scripts=["1"])

    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=.(https?:)?//", page)
    assert not re.search(r"url\(|@import", page)


def test_names_of_the_user_are_text_wherever_they_stand() -> None:
    parts = [
        paragraph(NASTY),
        bullets([NASTY]),
        table([NASTY], [[NASTY]]),
        details(NASTY, paragraph(NASTY)),
        data_script({NASTY: NASTY}, kind="rows"),
    ]

    outline = Outline(render_page(NASTY, [make_section("one", NASTY, *parts)]))

    assert outline.tags.count("script") == 1
    assert outline.open == []
    assert outline.text.count(NASTY) == 9
    assert escape(NASTY) == "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#x27;&quot;"


def test_a_script_cannot_end_itself() -> None:
    page = render_page("title", [make_section("one", "One", "body")], scripts=['let a = "</script><b>";'])

    assert Outline(page).tags[-1] == "script"


def test_data_survives_with_null_for_what_is_no_number() -> None:
    text = data_script({"rows": [(1, float("nan"), float("-inf"), "</script>é")]}, kind="rows")

    content = re.fullmatch(r'<script type="application/json" class="rows">(.*)</script>', text)
    assert content is not None and "<" not in content[1]
    assert json.loads(content[1]) == {"rows": [[1, None, None, "</script>é"]]}


def test_numbers_in_a_table_stand_right() -> None:
    text = table(["class", "recall"], [["rose", 0.5]])

    assert '<td>rose</td><td class="number">0.5</td>' in text
    assert '<th>class</th><th class="number">recall</th>' in text


def test_nothing_to_list_is_no_list() -> None:
    assert bullets([]) == ""
    assert paragraph("text", kind="note") == '<p class="note">text</p>'


def test_a_thumbnail_is_small_and_keeps_its_proportions(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(Image.new("RGB", (900, 600), "red"), "JPEG"))

    small = thumbnail_of(path.read_bytes(), side=60)

    assert small.size == (60, 40)
    assert make_thumbnail(path, side=60) == make_thumbnail(path.read_bytes(), side=60)


def test_a_thumbnail_is_upright_and_shows_deep_greys_and_transparency_as_a_classifier_sees_them() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    half = Image.fromarray(np.repeat(np.array([[0, 65535]], np.uint16), 20, axis=1).repeat(20, axis=0))

    turned = np.asarray(thumbnail_of(encode(half, exif=exif), side=20))
    clear = np.asarray(thumbnail_of(encode(Image.new("RGBA", (20, 20), (0, 0, 0, 0)))))

    assert turned.shape == (20, 10, 3)
    assert turned[:7].max() < 30 and turned[-7:].min() > 225
    assert clear.min() > 250


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0"])
def test_a_damaged_image_has_no_thumbnail(content: bytes) -> None:
    assert make_thumbnail(content) is None


def test_a_file_that_is_gone_has_no_thumbnail(tmp_path: Path) -> None:
    assert make_thumbnail(tmp_path / "gone.png") is None


def test_a_name_of_bytes_that_are_no_utf8_does_not_spoil_the_page(tmp_path: Path) -> None:
    name = "caf\udce9.png"

    page = render_page(name, [make_section("a", name, paragraph(name), data_script([name], kind="data"))])

    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert page.count("caf\N{REPLACEMENT CHARACTER}.png") == 5
