"""The report in a real browser: it sorts, filters, draws, and asks the network for nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.answer.choose import choose_answer
from analysis.answer.record import save_answer
from analysis.report import write_report
from contract.study_layout import StudyPaths
from tests.simulated_pool import draw_chances, make_pool_of
from tests.study_factory import FakeTrial, make_study

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
NEEDED = "no chromium and chromedriver: apt-get install chromium chromium-driver"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip(NEEDED)
    selenium = pytest.importorskip("selenium", reason="no selenium: install the extra dev")
    assert selenium
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    home = tmp_path_factory.mktemp("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={home}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # The driver talks to chromium on this machine: never through a proxy.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "localhost,127.0.0.1"
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty trials, so that the first page does not hold them all."""
    trials = [
        FakeTrial(
            curve=[0.2, 0.3 + 0.01 * number],
            config={"backbone": ("lite0", "lite1")[number % 2], "dropout": 0.01 * (number % 40)},
            outcome="pruned" if number % 3 == 0 else "complete",
        )
        for number in range(60)
    ]
    return write_report(make_study(tmp_path_factory.mktemp("runs") / "blumen 花", trials))


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    """The freshly opened report."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(report.as_uri())
    return browser


def column(page: Any, label: str) -> list[str]:
    script = """
        const heads = [...document.querySelectorAll('.board th')].map((cell) => cell.innerText.trim());
        const index = heads.findIndex((text) => text.replace(/ [↑↓]$/, '') === arguments[0]);
        return [...document.querySelectorAll('.board tbody tr')].map((row) => row.cells[index].innerText);"""
    return list(page.execute_script(script, label))


def click(page: Any, label: str) -> None:
    buttons = page.find_elements("css selector", ".board th button")
    next(button for button in buttons if button.text.rstrip(" ↑↓") == label).click()


def type_filter(page: Any, text: str) -> None:
    page.find_element("css selector", ".board input").send_keys(text)


def test_the_answer_comes_first_and_a_phone_shows_its_three_numbers(browser: Any, tmp_path: Path) -> None:
    study = make_study(tmp_path / "answered", [FakeTrial(curve=[0.8]), FakeTrial(curve=[0.7])])
    pool = make_pool_of([draw_chances(200, 0.85, seed=seed) for seed in range(3)])
    answer = choose_answer(pool, metric="val_accuracy", made_of="x").answer
    save_answer(StudyPaths(study), answer)
    browser.set_window_size(500, 1000)  # the narrowest that chromium makes

    browser.get(write_report(study).as_uri())
    first = browser.find_element("css selector", "section")
    rows = first.find_elements("css selector", "table:first-of-type tbody tr")
    ends = [row.rect["x"] + row.rect["width"] for row in rows[:3]]
    browser.set_window_size(1200, 1000)

    assert first.find_element("css selector", "p.answer").text.startswith("The model is ")
    assert [row.text.split()[0] for row in rows[:3]] == ["as", "corrected", "test"]
    assert max(ends) <= 500


def test_the_leaderboard_starts_ranked(page: Any) -> None:
    values = [float(value) for value in column(page, "val acc")]

    assert len(values) == 25
    assert values == sorted(values, reverse=True)


def test_a_click_on_a_heading_sorts_and_a_second_one_turns_the_order(page: Any) -> None:
    click(page, "dropout")
    falling = [float(value) for value in column(page, "dropout")]
    click(page, "dropout")
    rising = [float(value) for value in column(page, "dropout")]

    assert falling == sorted(falling, reverse=True) and falling[0] == 0.39
    assert rising == sorted(rising) and rising[0] == 0.0


def test_words_and_comparisons_filter(page: Any) -> None:
    type_filter(page, "backbone=lite1 state:complete val_accuracy>0.6")

    assert set(column(page, "backbone")) == {"lite1"}
    assert set(column(page, "state")) == {"complete"}
    assert all(float(value) > 0.6 for value in column(page, "val acc"))
    assert "60 trials in all" in page.find_element("css selector", ".board .count").text


def test_more_rows_come_on_demand(page: Any) -> None:
    page.find_element("css selector", ".board .more").click()

    assert len(column(page, "trial")) == 60


def test_all_columns_can_be_shown(page: Any) -> None:
    page.find_element("css selector", ".board .all").click()

    assert len(column(page, "val macro f1")) == 25


def test_every_figure_is_drawn_without_an_error_or_a_request(page: Any) -> None:
    page.execute_script("window.dispatchEvent(new Event('beforeprint'))")

    plots = page.find_elements("css selector", ".plot")
    undrawn = [plot for plot in plots if not plot.find_elements("css selector", ".main-svg")]
    addresses = [
        message["params"]["request"]["url"]
        for entry in page.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    assert len(plots) >= 8
    assert not undrawn
    assert [address for address in addresses if not address.startswith(("file:", "data:", "blob:"))] == []
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_text_is_on_the_screen_before_the_code_that_draws_is_read(page: Any) -> None:
    """Plotly is 4 MB: a browser shows the sections while it reads on, if all code comes after them."""
    script = """
        const main = document.querySelector('main');
        const code = [...document.scripts].filter((one) => one.type !== 'application/json');
        const after = Node.DOCUMENT_POSITION_FOLLOWING;
        return code.map((one) => main.compareDocumentPosition(one) === after);"""

    comes_after_the_text = page.execute_script(script)

    assert comes_after_the_text == [True, True]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(page: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    style = "getComputedStyle(document.body)"
    text, back = page.execute_script(f"return [{style}.color, {style}.backgroundColor]")

    def brightness(colour: str) -> float:
        return sum(float(part) for part in colour.strip("rgb()").split(",")) / 3

    assert abs(brightness(text) - brightness(back)) > 180


def test_a_phone_never_scrolls_sideways(page: Any) -> None:
    phone = {"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        page.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        width = page.execute_script("return document.documentElement.scrollWidth")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    assert width <= 380
