"""The page of a data check in a real browser: every picture shows, names are text, nothing is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.integration.test_report_in_browser import browser  # noqa: F401  # a fixture
from tests.tiny_data import write_images
from trainables.check import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    images = write_images(folder / "<b>&%23?")
    Image.new("RGB", (40, 40), "gray").save(images / "red" / "<img src=x onerror=alert(1)>.png")
    with Image.open(images / "red" / "00.png") as picture:
        picture.save(images / "green" / "copy.png")
    out = ["--out", str(folder / "check.html"), "--review", str(folder / "labels.review.csv")]
    assert main([str(images), *out, "--no-features", "--cache-dir", str(folder / "cache")]) == 0
    return folder / "check.html"


def test_pictures_show_names_are_text_and_nothing_is_asked_for(browser: Any, page_file: Path) -> None:  # noqa: F811
    for log in ("browser", "performance"):
        browser.get_log(log)

    browser.get(page_file.as_uri())

    sources = browser.execute_script("return [...document.images].map((image) => image.src)")
    body = browser.find_element("tag name", "body").text
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    assert len(sources) >= 3
    assert all(source.startswith("data:image/jpeg") for source in sources)
    assert "<img src=x onerror=alert(1)>.png" in body
    assert "<b>&%23?" in browser.title
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    assert browser.get_log("browser") == []
