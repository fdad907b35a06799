"""The server's page in a real browser: by mouse, keyboard and phone, in light and dark."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from contract.model_layout import ModelPaths
from tests.integration.test_report_in_browser import browser as browser

pytest.importorskip("python_multipart", reason="no server: install the extra serve")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
SIZE, STORAGE = 32, 36
COLOURS = ["red", "green", "blå & <b>"]
TOKEN = "sesame"
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}


class Colours(torch.nn.Module):
    """Sees which of red, green and blue stands out most anywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        standing_out = images - images.mean(dim=1, keepdim=True)
        return (12 * torch.nn.functional.avg_pool2d(standing_out, 4).amax(dim=(2, 3))).softmax(dim=1)


class Bright(torch.nn.Module):
    """Tells light pictures from dark ones."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        light = 8 * (images.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-light, light], dim=1).softmax(dim=1)


def write_model(folder: Path, network: torch.nn.Module, **card: Any) -> Path:
    folder.mkdir()
    paths = ModelPaths(folder)
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(network, (torch.rand(2, 3, SIZE, SIZE),), dynamic_shapes=shapes)
    torch.export.save(program, paths.program)
    card = {"image_size": SIZE, "storage_size": STORAGE, "fit": "crop", "backbone": "none"} | card
    paths.card.write_text(json.dumps(card), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real server with two models and a token."""
    folder = tmp_path_factory.mktemp("served")
    sets = {f"{number / 100:.2f}": 0.9 - number / 110 for number in range(50, 100)}
    thresholds = {"prediction_sets": sets, "unknown": {"score": "probability", "threshold": 0.4}}
    models = [
        write_model(folder / "colours", Colours(), classes=COLOURS, thresholds=thresholds),
        write_model(folder / "bright", Bright(), classes=["dark", "light"], fit="pad"),
    ]
    log = folder / "server.log"
    with log.open("w") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "serving", "start", *map(str, models), "--port", "0"],
            cwd=ROOT,
            env=os.environ | {"UNFREEZE_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(480):
            assert running.poll() is None, log.read_text()
            if found := re.search(r"^serving .* at (http://\S+)$", log.read_text(), re.MULTILINE):
                break
            time.sleep(0.25)
        assert found, log.read_text()
        yield found[1]
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(timeout=60)


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    """The freshly opened page, which knows the token."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.set_window_size(1200, 1000)
    browser.get(server)
    browser.execute_script(f"sessionStorage.setItem('token', '{TOKEN}')")
    browser.get(server)
    wait_for(lambda: browser.find_element("id", "about").is_displayed())
    yield browser
    browser.execute_script("sessionStorage.clear()")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def wait_for(condition: Callable[[], Any]) -> Any:
    for _ in range(300):
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it never came")


def write_picture(
    path: Path, colour: Any, *, size: tuple[int, int] = (90, 60), spot: tuple[int, int] | None = None
) -> Path:
    """A picture of one colour, or a grey one with a spot of it in the middle of `spot`."""
    image = Image.new("RGB", size, colour if spot is None else "grey")
    if spot is not None:
        across, down = spot
        ImageDraw.Draw(image).rectangle((across - 6, down - 6, across + 6, down + 6), fill=colour)
    image.save(path)
    return path


def choose(page: Any, *paths: Path) -> None:
    page.find_element("id", "choose").send_keys("\n".join(map(str, paths)))


def heads(page: Any, number: int = 1) -> list[str]:
    """What the page answers, once it has for so many pictures."""

    def complete() -> list[str] | None:
        found = [one.text for one in page.find_elements("css selector", "article h2")]
        return found if len(found) == number and "…" not in found else None

    return list(wait_for(complete))


def rows(page: Any) -> dict[str, str]:
    found = page.find_elements("css selector", "article tbody tr")
    return {
        row.find_element("tag name", "th").text: row.find_element("class name", "percent").text
        for row in found
    }


def drop(page: Any, *paths: Path) -> None:
    """Drop files as the desktop does."""
    place = page.find_element("id", "drop").rect
    where = {"x": place["x"] + 40, "y": place["y"] + 20}
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "data": data, **where})


def test_a_dropped_photo_gets_its_label_and_probabilities(page: Any, tmp_path: Path) -> None:
    drop(page, write_picture(tmp_path / "a photo.jpg", "green"))

    assert heads(page) == ["green"]
    found = rows(page)
    assert next(iter(found)) == "green" and set(found) == set(COLOURS)
    assert sum(float(text.strip("<> %")) for text in found.values()) == pytest.approx(100, abs=0.3)
    assert page.find_element("class name", "set").text == "The 90 % set holds only green."
    assert page.find_element("id", "status").text.startswith("a photo.jpg: green, ")


def test_a_dropped_folder_gives_its_pictures(page: Any, tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    write_picture(tmp_path / "folder" / "a.png", "red")
    write_picture(tmp_path / "folder" / "inner" / "b.png", "green")

    drop(page, tmp_path / "folder")

    assert sorted(heads(page, 2)) == ["green", "red"]


def test_several_kinds_are_answered_and_a_bad_file_is_told_in_plain_words(page: Any, tmp_path: Path) -> None:
    bad = tmp_path / "notes.jpg"
    bad.write_text("no picture")

    choose(page, write_picture(tmp_path / "1.tiff", "red"), write_picture(tmp_path / "2.png", "blue"), bad)

    assert heads(page, 3) == ["red", "blå & <b>", "No answer"]
    captions = [one.text for one in page.find_elements("tag name", "figcaption")]
    assert captions[:2] == ["1.tiff (this browser cannot show it)", "2.png"]
    (told,) = [one.text for one in page.find_elements("class name", "wrong") if one.is_displayed()]
    assert told == "The server cannot read this picture: no image format that can be read."


def test_a_picture_is_pasted(page: Any) -> None:
    page.execute_script("""
        const canvas = document.createElement('canvas');
        canvas.width = canvas.height = 50;
        const context = canvas.getContext('2d');
        context.fillStyle = 'red';
        context.fillRect(0, 0, 50, 50);
        canvas.toBlob((blob) => {
            const data = new DataTransfer();
            data.items.add(new File([blob], 'image.png', {type: 'image/png'}));
            document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}));
        });""")

    assert heads(page) == ["red"]


def test_a_picture_like_none_of_the_classes_is_called_unknown(page: Any, tmp_path: Path) -> None:
    choose(page, write_picture(tmp_path / "grey.png", "grey"))

    assert heads(page)[0].startswith("Unknown; nearest to ")
    assert page.find_element("css selector", "article .unknown").is_displayed()
    assert not page.find_element("class name", "set").is_displayed()


def test_another_coverage_and_another_model_answer_again_for_the_pictures_there(
    page: Any, tmp_path: Path
) -> None:
    choose(page, write_picture(tmp_path / "yellow.png", (255, 255, 0)))
    heads(page)
    sets = [page.find_element("class name", "set").text]
    pick(page, "coverage", "99 %")
    heads(page)
    sets.append(page.find_element("class name", "set").text)

    pick(page, "model", "bright")

    wait_for(lambda: heads(page) == ["light"])
    assert sets[0] == "The 90 % set holds red, green."
    assert sets[1].startswith("The 99 % set holds ")
    assert not page.find_element("id", "coverage").is_displayed()


def pick(page: Any, name: str, text: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(page.find_element("id", name)).select_by_visible_text(text)


@pytest.mark.parametrize("model", ["colours", "bright"])
def test_what_the_model_looked_at_is_drawn_where_it_lies_on_the_picture(
    page: Any, tmp_path: Path, model: str
) -> None:
    pick(page, "model", model)
    choose(
        page, write_picture(tmp_path / "spot.png", "red", size=(200, 100), spot=(117, 33))
    )  # a cell's middle
    heads(page)
    page.find_element("class name", "explain").click()
    canvas = page.find_element("tag name", "canvas")
    wait_for(canvas.is_displayed)

    red, _, blue, alpha = at(page, 117, 33)
    image = page.find_element("css selector", "article img").rect

    assert {name: round(canvas.rect[name]) for name in image} == {name: round(image[name]) for name in image}
    if model == "colours":  # which sees the square in the middle, 89 pixels of 100
        assert (red > 200, blue < 60, alpha > 150) == (True, True, True)
        assert at(page, 80, 80)[3] < 20
        assert [at(page, 5, 50)[3] > 100, at(page, 102, 2)[3] > 100, at(page, 150, 50)[3] > 100] == [True] * 3
        assert page.find_element("class name", "legend").text.startswith("Orange: covered, it lowers")
    else:  # which sees the whole picture in a square with margins
        assert [at(page, x, 50) == [0, 0, 0, 140] for x in (5, 102, 195)] == [False] * 3


def at(page: Any, across: int, down: int) -> list[int]:
    """Red, green, blue and opacity of the map at a pixel of the picture."""
    script = """
        const canvas = document.querySelector('article canvas');
        const scale = canvas.width / document.querySelector('article img').naturalWidth;
        const [across, down] = [...arguments].map((place) => place * scale);
        return [...canvas.getContext('2d').getImageData(across, down, 1, 1).data];"""
    return list(page.execute_script(script, across, down))


def test_the_keyboard_alone_reaches_everything_in_order_and_sees_where_it_is(
    page: Any, tmp_path: Path
) -> None:
    choose(page, write_picture(tmp_path / "red.png", "red"))
    heads(page)
    page.execute_script("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    page.execute_script(
        "document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')"
    )

    reached = []
    for _ in range(12):
        press(page, "\ue004")
        element = page.switch_to.active_element
        reached.append(
            (element.get_attribute("id") or element.get_attribute("class"), element.accessible_name)
        )
        if reached[-1][0] == "explain":
            break
        assert outlined(page), reached[-1]
    press(page, " ")
    wait_for(page.find_element("tag name", "canvas").is_displayed)
    press(page, "\ue004")
    press(page, "\ue004")
    press(page, "\ue007")

    names = [name for name, _ in reached]
    assert [
        one for one in names if one in ("model", "coverage", "choose unseen", "choose", "clear", "explain")
    ] == [
        "model",
        "coverage",
        "choose",
        "clear",
        "explain",
    ]
    assert all(label for _, label in reached)
    assert page.find_elements("tag name", "article") == []  # Remove was the last that was pressed
    assert page.switch_to.active_element.get_attribute("id") == "choose"


def press(page: Any, key: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page).send_keys(key).perform()


def outlined(page: Any) -> bool:
    script = """
        const element = document.activeElement;
        return [element, element.closest('label')].filter(Boolean).map(getComputedStyle).some(
            (style) => style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2);"""
    return bool(page.execute_script(script))


def test_a_phone_can_take_a_photo_and_never_scrolls_sideways(page: Any, tmp_path: Path) -> None:
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    page.refresh()
    wait_for(lambda: page.find_element("id", "about").is_displayed())
    camera = page.find_element("id", "camera")
    name = "a very long name of a picture " * 4 + "x" * 90 + ".png"
    camera.send_keys(str(write_picture(tmp_path / name, "red", size=(900, 300))))
    heads(page)
    page.find_element("class name", "explain").click()
    wait_for(page.find_element("tag name", "canvas").is_displayed)

    width = page.execute_script("return document.documentElement.scrollWidth")
    sizes = [
        one.rect["height"]
        for one in page.find_elements("css selector", "button, .button, select")
        if one.is_displayed()
    ]

    assert width <= 360
    assert page.find_element("class name", "camera").is_displayed()
    assert camera.get_attribute("capture") == "environment"
    assert min(sizes) >= 38


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_in_both_schemes(page: Any, tmp_path: Path, scheme: str) -> None:
    """At least 4.5 : 1, as WCAG 2.2 AA asks."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    bad = tmp_path / "bad.png"
    bad.write_text("x")
    choose(page, write_picture(tmp_path / "grey.png", "grey"), bad)
    heads(page, 2)

    contrasts = page.execute_script("""
        const parse = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => {
            const [x, y, z] = [r, g, b].map((v) => v / 255)
                .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * x + 0.7152 * y + 0.0722 * z;
        };
        const ground = (one) => {
            const colour = parse(getComputedStyle(one).backgroundColor);
            return colour.length === 3 || colour[3] > 0 ? colour : ground(one.parentElement);
        };
        const isText = (node) => node.nodeType === 3 && node.textContent.trim();
        const shown = (one) => [...one.childNodes].some(isText) && one.checkVisibility();
        return [...document.body.querySelectorAll('*')].filter(shown).map((one) => {
            const lights = [parse(getComputedStyle(one).color), ground(one)].map(light);
            const contrast = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
            return [one.className || one.tagName, contrast];
        });""")

    assert len(contrasts) > 15
    assert [one for one in contrasts if one[1] < 4.5] == []
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 28)"
    )


def test_nothing_is_asked_of_another_machine_and_nothing_breaks_the_policy(
    page: Any, server: str, tmp_path: Path
) -> None:
    choose(page, write_picture(tmp_path / "red.png", "red"))
    heads(page)
    page.find_element("class name", "explain").click()
    wait_for(page.find_element("tag name", "canvas").is_displayed)

    asked = [
        message["params"]["request"]["url"]
        for entry in page.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    outside = [one for one in asked if not one.startswith((f"{server.rstrip('/')}/", "blob:", "data:"))]
    assert any(one.endswith("/page.js") for one in asked) and any("/explain" in one for one in asked)
    assert outside == []
    complaints = [one["message"] for one in page.get_log("browser") if "401" not in one["message"]]
    assert complaints == []


def test_the_page_asks_for_the_token_and_goes_on_with_the_right_one(
    browser: Any, server: str, tmp_path: Path
) -> None:
    browser.get(server)
    browser.execute_script("sessionStorage.clear()")
    browser.get(server)
    form = browser.find_element("id", "token-form")
    wait_for(form.is_displayed)
    waits_in_field = browser.switch_to.active_element.get_attribute("id") == "token"
    browser.find_element("id", "token").send_keys("wrong\n")
    wait_for(lambda: "not the server's" in form.text)
    browser.find_element("id", "token").send_keys(f"{TOKEN}\n")
    wait_for(lambda: browser.find_element("id", "about").is_displayed())

    choose(browser, write_picture(tmp_path / "red.png", "red"))

    assert heads(browser) == ["red"]
    assert waits_in_field and not form.is_displayed()
    browser.execute_script("sessionStorage.clear()")


def test_a_server_that_is_gone_is_told_and_asked_again_on_demand(page: Any, tmp_path: Path) -> None:
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.execute_cdp_cmd("Network.enable", {})
    page.execute_cdp_cmd("Network.emulateNetworkConditions", conditions | {"offline": True})
    choose(page, write_picture(tmp_path / "red.png", "red"))
    first = heads(page), page.find_element("css selector", "article .wrong").text
    page.execute_cdp_cmd("Network.emulateNetworkConditions", conditions | {"offline": False})

    page.find_element("class name", "again").click()

    wait_for(lambda: heads(page) == ["red"])
    assert first == (["No answer"], "The server does not answer: is it still running?")


def test_all_pictures_are_removed_at_once(page: Any, tmp_path: Path) -> None:
    choose(page, *(write_picture(tmp_path / f"{number}.png", "red") for number in range(6)))
    heads(page, 6)

    page.find_element("id", "clear").click()

    assert page.find_elements("tag name", "article") == []
    assert not page.find_element("id", "clear").is_displayed()
