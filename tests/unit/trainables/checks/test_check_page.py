"""The page of a data check: safe with any name, without a photo if asked, and the JSON says the same."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.checks.findings import (
    ClassPair,
    CopyGroup,
    Findings,
    LabelSuspect,
    Outlier,
    group_copies,
    weigh_classes,
    worst_first,
)
from trainables.checks.page import write_page
from trainables.checks.quality import OddPicture
from trainables.checks.review import make_review
from trainables.checks.summary import summarize
from trainables.data.datasets import find_images
from trainables.images.decoding import ImageFact

NASTY = "<b>&\"'%#?`</b>"
NAME = "<script>alert(1)<%#?&\"'.png"


class _Tags(HTMLParser):
    """Counts the tags of a page, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.tags.append(tag)


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    """Two classes with names that mean something to HTML, and one finding of each sort."""
    for label in (NASTY.replace("/", "_"), "rose"):
        for number in range(4):
            file = tmp_path / "data" / label / f"{number}{NAME}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(file, format="PNG")
    listing = find_images(str(tmp_path / "data"), cache_dir=tmp_path / "cache")
    facts = tuple(
        ImageFact(number != 3, "" if number != 3 else f"broken {NASTY}", 8, 8, f"digest {number % 4}")
        for number in range(8)
    )
    return Findings(
        listing=listing,
        facts=facts,
        copies=(CopyGroup((0, 4), is_exact=True), CopyGroup((1, 2), False, ((1, 2),))),
        suspects=(LabelSuspect(1, 1, f"neighbours say {NASTY}", 0.9, (4, 5)),),
        outliers=(Outlier(6, f"far from all {NASTY}", 3.0, (5,)),),
        odd=(OddPicture(2, "dark", 7.0, "brightest grey 3"),),
        pairs=(ClassPair((0, 1), f"confused {NASTY}", 0.4),),
        seconds={"decoding": 1.0},
    )


def write(findings: Findings, folder: Path, *, with_images: bool = True) -> str:
    file = folder / "check.html"
    write_page(findings, file, review=folder / "labels.review.csv", with_images=with_images)
    return file.read_text(encoding="utf-8")


def test_names_with_tags_and_quotes_are_shown_as_text(findings: Findings, tmp_path: Path) -> None:
    page = write(findings, tmp_path)

    tags = _Tags(page).tags
    assert "script" not in tags
    assert "&lt;script&gt;alert(1)" in page
    assert tags.count("b") == page.count("<b>")
    assert "<b>&amp;" not in page


def test_the_page_shows_each_picture_and_asks_for_nothing(findings: Findings, tmp_path: Path) -> None:
    page = write(findings, tmp_path)

    copies, suspect, outlier, odd = 4, 1 + 2, 1 + 1, 1  # with their neighbours
    assert _Tags(page).tags.count("img") == copies + suspect + outlier + odd
    sources = re.findall(r'src="([^"]{20})', page)
    assert sources
    assert all(source.startswith("data:image/jpeg") for source in sources)
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_without_images_there_is_no_photo_in_the_page(findings: Findings, tmp_path: Path) -> None:
    page = write(findings, tmp_path, with_images=False)

    assert "img" not in _Tags(page).tags
    assert "data:image/jpeg" not in page
    assert "base64" not in page
    assert "0&lt;script&gt;" in page


def test_file_names_that_are_no_unicode_are_shown(findings: Findings, tmp_path: Path) -> None:
    listing = findings.listing
    odd_name = listing.paths[0].parent / "caf\udce9.png"
    object.__setattr__(listing, "paths", (odd_name, *listing.paths[1:]))

    page = write(findings, tmp_path, with_images=False)

    assert "caf?.png" in page or "caf\ufffd.png" in page


def test_every_finding_stands_in_the_json_with_path_and_class(findings: Findings) -> None:
    found = json.loads(json.dumps(findings.as_dict(), allow_nan=False))

    assert found["num_images"] == 8
    assert [one["images"] for one in found["classes"]] == [4, 4]
    assert found["unreadable"][0]["path"].endswith(f"3{NAME}")
    assert found["copies"][0]["across_classes"]
    assert not found["copies"][1]["across_classes"]
    assert found["label_suspects"][0]["suggested"] == "rose"
    assert len(found["label_suspects"][0]["neighbours"]) == 2
    assert found["outliers"][0]["given"] == "rose"
    assert found["odd_pictures"][0]["kind"] == "dark"
    assert found["class_pairs"][0]["confusion"] == 0.4
    assert found["imbalance"]["accuracy_of_majority"] == pytest.approx(4 / 7, abs=1e-3)


def test_the_review_file_has_one_row_for_each_image_with_all_reasons(findings: Findings) -> None:
    rows = make_review(findings)

    names = [row.path for row in rows]
    assert names == [findings.name(image) for image in (1, 0, 4, 6, 2)]
    assert rows[0].suggested == "rose"
    assert all(row.action == "" for row in rows)
    assert "the same file as" in rows[1].why


def test_of_copies_in_two_splits_the_one_that_is_not_judged_with_is_named(findings: Findings) -> None:
    object.__setattr__(findings.listing, "splits", (None, "train", "test", *(None,) * 5))
    object.__setattr__(findings, "suspects", ())
    object.__setattr__(findings, "odd", ())

    rows = {row.path: row.why for row in make_review(findings)}

    assert "which is in the test split" in rows[findings.name(1)]
    assert findings.name(2) not in rows
    assert "1 picture is in two splits" in " ".join(summarize(findings))
    assert worst_first(findings.copies[::-1], findings)[0] == findings.copies[0]


def test_files_of_equal_content_are_copies_unless_they_cannot_be_read() -> None:
    facts = [ImageFact(ok, "", 1, 1, digest) for ok, digest in ((True, "a"), (True, "b"), (True, "a"))]
    empty = [ImageFact(False, "empty file", 0, 0, "e")] * 2

    assert group_copies([*facts, *empty]) == [CopyGroup((0, 2), is_exact=True)]


def test_near_copies_of_copies_are_one_group() -> None:
    facts = [ImageFact(True, "", 1, 1, digest) for digest in "abacdef"]

    groups = group_copies(facts, [(0, 2), (2, 3), (6, 5)])

    assert groups == [CopyGroup((0, 2, 3), False, ((2, 3),)), CopyGroup((5, 6), False, ((6, 5),))]


def test_the_ends_of_a_chain_of_near_copies_are_no_contradiction(findings: Findings) -> None:
    chain = CopyGroup((0, 1, 2, 4), False, ((0, 1), (1, 2), (2, 4)))
    object.__setattr__(findings, "facts", tuple(ImageFact(True, "", 8, 8, f"{n}") for n in range(8)))

    named = [name for name, others in findings.direct_copies(chain) if 4 in others]

    assert named == [2, 4]
    assert findings.crosses_classes(chain)
    assert not findings.crosses_classes(CopyGroup((0, 1, 4), False, ((0, 1),)))


@pytest.mark.parametrize(
    ("counts", "share", "advised"), [((950, 50), 0.95, True), ((60, 40), 0.6, False), ((5, 0), 1.0, False)]
)
def test_unequal_classes_are_advised_another_metric(
    counts: tuple[int, ...], share: float, advised: bool
) -> None:
    found = weigh_classes(np.array(counts))

    assert found.accuracy_of_majority == pytest.approx(share)
    assert ("--metric val_macro_f1" in found.advice) is advised


def test_classes_without_an_image_in_a_split_that_was_given_are_named(
    findings: Findings, tmp_path: Path
) -> None:
    object.__setattr__(findings.listing, "splits", ("train", *("val",) * 3, *("train",) * 4))

    page = write(findings, tmp_path)

    assert findings.as_dict()["lacking"] == {"val": ["rose"]}
    assert "val: no image of" in page
    assert "1 class is missing in a split" in page


def test_what_was_not_looked_at_is_not_said_to_be_fine(findings: Findings, tmp_path: Path) -> None:
    partial = Findings(listing=findings.listing, facts=findings.facts, not_checked="labels were not checked")

    page = write(partial, tmp_path)

    assert page.count("labels were not checked") == 3
    assert "No label stands out" not in page
    assert "No picture is there twice" in page


def test_a_clean_data_set_is_said_to_be_clean(findings: Findings, tmp_path: Path) -> None:
    clean = Findings(listing=findings.listing, facts=(ImageFact(True, "", 8, 8, "x"),) * 8)

    page = write(clean, tmp_path)

    assert "No picture is there twice" in page
    assert "No label stands out as wrong" in page
    assert "Every file can be read" in page
