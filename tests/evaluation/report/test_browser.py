"""The page in a real browser. Needs Chromium (CHROMIUM, or one on the PATH) and playwright, which drives it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairtat.evaluation.report import Report, RunRecord
from fairtat.evaluation.report.order import order_by_confusion
from fairtat.evaluation.report.page import write_report

Record = Callable[..., RunRecord]
Open = Callable[..., Any]
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright, which drives the browser")
    path = chromium()
    if path is None:
        pytest.skip("no Chromium here: install one, or name it in CHROMIUM")
    with driver.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """A report in a window of its own; fails the test on a message in the console, an exception or a request."""
    complaints: list[str] = []

    def open_page(report: Report, width: int = 1200, **settings: Any) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 800}, **settings)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        path = write_report(report, tmp_path / "report.html")[0]
        page.on(
            "request", lambda r: complaints.append(r.url) if not r.url.startswith(("data:", path.as_uri())) else None
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    assert complaints == []


@pytest.fixture
def report(record: Record) -> Report:
    counts = [20] * 9 + [0]
    return Report(
        [record("at", classes=10, per_class=counts, names=NAMES, extras=True)]
        + [record(name, classes=10, per_class=counts, names=NAMES, seed=k) for k, name in enumerate(("cfa", "fair"), 1)]
    )


def column(page: Any, index: int) -> list[str]:
    return [cell.strip() for cell in page.locator(f"table.sortable tbody tr > :nth-child({index})").all_inner_texts()]


def numbers(texts: list[str]) -> list[float]:
    return [float(text.replace("\N{MINUS SIGN}", "-")) for text in texts if text != "\N{EN DASH}"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_without_a_complaint(opened: Open, report: Report, scheme: str) -> None:
    page = opened(report, color_scheme=scheme)
    assert page.title() == "cfa, fair against at"
    assert page.locator("h2").count() >= 5
    background = page.evaluate("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").split(",")
    assert (int(background[0]) > 200) == (scheme == "light")


def test_a_click_sorts_and_another_one_turns_the_order(opened: Open, report: Report) -> None:
    page = opened(report)
    assert column(page, 1) == NAMES
    robust = page.locator("table.sortable thead th button", has_text="robust").first
    robust.click()
    values = column(page, 4)
    assert numbers(values) == sorted(numbers(values))
    assert values[-1] == "\N{EN DASH}"  # a class without images is last whichever way
    robust.click()
    values = column(page, 4)
    assert numbers(values) == sorted(numbers(values), reverse=True)
    assert values[-1] == "\N{EN DASH}"
    marked = page.locator("table.sortable th[aria-sort]:not([aria-sort=none])")
    assert marked.count() == 1
    assert marked.get_attribute("aria-sort") == "descending"


def test_differences_sort_by_value_and_names_by_the_datas_order(opened: Open, report: Report) -> None:
    page = opened(report)
    page.locator("table.sortable thead th button", has_text="change").first.click()
    values = numbers(column(page, 8))
    assert values == sorted(values)
    assert min(values) < 0 < max(values)
    page.locator("table.sortable thead th button", has_text="class").click()
    assert column(page, 1) == NAMES


def test_the_keyboard_sorts_too(opened: Open, report: Report) -> None:
    page = opened(report)
    page.locator("table.sortable thead th button", has_text="clean").first.focus()
    page.keyboard.press("Enter")
    assert numbers(column(page, 3)) == sorted(numbers(column(page, 3)))
    page.keyboard.press("Space")
    assert numbers(column(page, 3)) == sorted(numbers(column(page, 3)), reverse=True)


@pytest.mark.parametrize("width", [320, 380, 768])
def test_the_page_never_scrolls_sideways_and_wide_tables_do_in_their_box(
    opened: Open, report: Report, width: int
) -> None:
    page = opened(report, width=width)
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    table = page.locator("table.sortable").locator("xpath=..")
    assert table.evaluate("box => box.scrollWidth > box.clientWidth")


def test_long_names_do_not_widen_the_page(opened: Open, record: Record) -> None:
    names = ["W" * 60, "a name of several words that goes on and on", "c", "d"]
    report = Report([record("run-" + "x" * 80, names=names), record("fair", names=names, seed=1)])
    assert opened(report, width=380).evaluate("document.documentElement.scrollWidth") == 380


def test_many_long_names_leave_every_figure_in_sight_on_a_phone(opened: Open, record: Record) -> None:
    names = [*(f"End of speed limit ({speed}km/h) for all vehicles but trains" for speed in range(43))]
    runs = [record(name, classes=43, names=names, seed=seed, extras=True) for seed, name in enumerate(("at", "fair"))]
    page = opened(Report(runs), width=380)
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == 380
    values = page.locator(".bars .value, .changes .value").filter(has_text=re.compile("[0-9]"))
    assert values.count() == 3 * 43
    inside = "cells => cells.every(c => c.scrollWidth <= c.clientWidth && c.getBoundingClientRect().right <= 380)"
    assert values.evaluate_all(inside)
    assert len(set(column(page, 1))) == 43
    assert page.locator("table.sortable tbody th").evaluate_all(
        "cells => cells.every(c => c.scrollWidth <= c.clientWidth)"
    )


def test_on_a_wide_screen_the_picture_stands_beside_the_summary(opened: Open, report: Report) -> None:
    for width, beside in ((1280, True), (380, False)):
        page = opened(report, width=width)
        story, picture = (page.locator(f"#summary {part}").first.bounding_box() for part in (".story", ".spread"))
        assert (picture["x"] > story["x"] + story["width"]) == beside
        assert picture["x"] + picture["width"] <= width


def test_paper_shows_what_a_screen_folds(opened: Open, record: Record) -> None:
    page = opened(Report([record("at", classes=30, per_class=5), record("fair", classes=30, per_class=5, seed=1)]))
    assert page.locator("details[open]").count() == 0
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_text_stands_out_from_its_background(opened: Open, report: Report) -> None:
    """WCAG's contrast of 4.5 for every cell of the heat maps, in both schemes."""
    contrast = """cells => {
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const luminance = color => {
        canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
          .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      return Math.min(...cells.filter(cell => cell.textContent).map(cell => {
        const style = getComputedStyle(cell);
        const pair = [luminance(style.color), luminance(style.backgroundColor)].sort((a, b) => b - a);
        return (pair[0] + 0.05) / (pair[1] + 0.05);
      }));
    }"""
    for scheme in ("light", "dark"):
        page = opened(report, color_scheme=scheme)
        assert page.locator("table.heat td").evaluate_all(contrast) >= 4.5, scheme


def signs(record: Record, runs: int) -> Report:
    names = [f"Speed limit ({k}km/h) for vehicles over 3.5 metric tons" for k in range(43)]
    made = [record(f"a method of training {k}", classes=43, per_class=7, names=names, seed=k) for k in range(runs)]
    return Report(made)


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_the_last_column_of_43_classes_is_in_sight_at_1280_pixels(opened: Open, record: Record, runs: int) -> None:
    page = opened(signs(record, runs), width=1280)
    box = page.locator("table.sortable").locator("xpath=..")
    assert box.evaluate("box => box.scrollWidth <= box.clientWidth")
    last = page.locator("table.sortable thead tr:last-child th:last-child").bounding_box()
    assert last["x"] + last["width"] <= 1280


def told(record: RunRecord, label: int, predicted: int) -> str:
    """The sentence of a cell of the main attack's confusions, by position in the data."""
    figures, names = record.evaluation.robust, record.evaluation.class_names
    share = int(figures.confusion[label, predicted]) / figures.n[label]
    return f"true class {names[label]}, predicted {names[predicted]}: {100 * share:.0f}%"


def test_a_mosaic_tells_both_classes_under_the_pointer_and_by_the_keyboard(opened: Open, record: Record) -> None:
    report = signs(record, 1)
    page = opened(report, width=1280)
    run = report.records[0]
    order = order_by_confusion([run.evaluation.robust])
    figure = page.locator("figure.matrix").nth(1)
    mosaic, readout = figure.locator(".mosaic"), figure.locator(".readout")
    area = mosaic.locator("svg").bounding_box()
    unit = area["width"] / 43
    assert figure.locator(".cursor").is_hidden()
    for row, column in ((0, 0), (3, 40), (42, 42)):
        mosaic.locator("svg").hover(position={"x": (column + 0.5) * unit, "y": (row + 0.5) * unit})
        assert readout.inner_text() == told(run, order[row], order[column])
    page.mouse.move(0, 0)
    assert readout.inner_text() == ""
    mosaic.focus()
    assert readout.inner_text() == told(run, order[0], order[0])
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert readout.inner_text() == told(run, order[2], order[1])
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # at the edge
    assert readout.inner_text() == told(run, order[1], order[0])
    page.keyboard.press("Tab")
    assert readout.inner_text() == ""


def test_a_click_or_a_tap_stays_and_the_keys_go_on_from_there(opened: Open, record: Record) -> None:
    report = signs(record, 1)
    page = opened(report, width=1280)
    run = report.records[0]
    order = order_by_confusion([run.evaluation.robust])
    figure = page.locator("figure.matrix").nth(1)
    unit = figure.locator(".mosaic svg").bounding_box()["width"] / 43
    figure.locator(".mosaic svg").click(position={"x": 12.5 * unit, "y": 7.5 * unit})
    page.mouse.move(0, 0)
    assert figure.locator(".readout").inner_text() == told(run, order[7], order[12])
    page.keyboard.press("ArrowRight")
    assert figure.locator(".readout").inner_text() == told(run, order[7], order[13])


def test_a_small_map_tells_its_cells_too(opened: Open, report: Report) -> None:
    page = opened(report, width=1280)
    run = report.records[0]
    figure = page.locator("figure.matrix").nth(1)
    box, readout = figure.locator(".scroll"), figure.locator(".readout")
    figure.locator("tbody tr").nth(2).locator("td").nth(3).hover()
    assert readout.inner_text() == told(run, 2, 3)
    box.focus()
    page.mouse.move(0, 0)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert readout.inner_text() == told(run, 1, 1)
    for _ in range(12):
        page.keyboard.press("ArrowDown")
    assert readout.inner_text() == "true class truck, predicted automobile: no images"
    page.keyboard.press("Tab")
    assert figure.locator("td.at").count() == 0


def test_names_stand_beside_the_rows_of_a_mosaic(opened: Open, record: Record) -> None:
    page = opened(signs(record, 1), width=1280)
    figure = page.locator("figure.matrix").first
    area = figure.locator(".mosaic svg").bounding_box()
    names = figure.locator(".mosaic-names span")
    assert names.count() == 43
    for k in (0, 20, 42):
        box = names.nth(k).bounding_box()
        middle = area["y"] + (k + 0.5) / 43 * area["height"]
        assert abs(box["y"] + box["height"] / 2 - middle) < area["height"] / 43 / 2
        assert box["x"] + box["width"] <= area["x"]
