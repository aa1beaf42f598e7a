"""The report in a browser, from disk: nothing fetched, nothing cut off, read by keyboard, at night, by phone, on paper."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_benchmark_fakes import make_benchmark_report
from report_fakes import make_curve
from report_page import Page

from hemalens.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium")

DESKTOP, PHONE, PAPER = (1280, 900), (360, 740), (695, 1000)
"""Widths and heights in px; paper is A4 within its margins."""
OPEN_ALL = "for (const details of document.querySelectorAll('details')) details.open = true"
TOO_WIDE = """() => [...document.querySelectorAll('main *, header *')].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width > 1 && box.right > innerWidth + 1 && !element.closest('.scroll');
}).map(element => element.tagName + '.' + element.getAttribute('class'))"""
CONTRASTS = """() => {
  const parse = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = (top, below) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * below[i]).concat([1]);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + [0.2126, 0.7152, 0.0722][i] * c, 0);
  const ground = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const found = {};
  for (const element of document.querySelectorAll('body *:not(svg *, style, script)')) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    if (!element.getClientRects().length) continue;
    const below = ground(element), ink = over(parse(getComputedStyle(element).color), below);
    const [dark, bright] = [light(ink), light(below)].sort((a, b) => a - b);
    const name = element.tagName.toLowerCase() + '.' + element.className;
    found[name] = Math.min(found[name] ?? 99, (bright + 0.05) / (dark + 0.05));
  }
  return found;
}"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    report = make_benchmark_report(methods=("linear_probe", "dann"), n_points=60)
    curves = [
        make_curve(f"network {number}, ImageNet", 60, shift=0.02 * number, group=group, kept=30)
        for group, n_networks in (("10 % of the labels", 1), ("100 % of the labels", 5))
        for number in range(n_networks)
    ]
    write_report(report.model_copy(update={"curves": tuple(curves)}), folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[Any]:
    """Opens the report: a function of the window's size and the colour scheme."""
    pages = []

    def opens(size: tuple[int, int] = DESKTOP, scheme: str = "light", *, media: str = "screen") -> Any:
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        pages.append(page)
        page.emulate_media(media=media, color_scheme=scheme)
        page.goto(path.as_uri())
        return page

    yield opens
    for page in pages:
        page.close()


def test_opens_from_disk_whole_and_asks_for_nothing(browser: Any, path: Path) -> None:
    page = browser.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.evaluate(OPEN_ALL)
    html = path.read_text(encoding="utf-8")
    tags = [tag for tag, _ in Page(html).tags]
    assert page.locator("table").count() == tags.count("table") > 60
    sizes = page.eval_on_selector_all("svg[role=img]", "all => all.map(e => [e.clientWidth, e.clientHeight])")
    assert len(sizes) > 50
    assert min(min(size) for size in sizes) > 100, "every figure is drawn"
    pictures = page.eval_on_selector_all("img", "all => all.map(e => e.complete && e.naturalWidth)")
    assert len(pictures) == tags.count("img") > 100
    assert min(pictures) > 0
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    page.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE, (820, 1180)])
def test_nothing_is_wider_than_the_window(opened: Any, size: tuple[int, int]) -> None:
    page = opened(size)
    page.evaluate(OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    assert page.evaluate(TOO_WIDE) == []
    wide = page.eval_on_selector_all(".scroll", "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).length")
    assert size != PHONE or wide > 20, "what is wider scrolls within its region"


def test_a_keyboard_reaches_what_scrolls(opened: Any) -> None:
    page = opened(PHONE)
    page.keyboard.press("Tab")
    skip = page.evaluate("[document.activeElement.className, document.activeElement.getBoundingClientRect().left]")
    assert skip[0] == "skip"
    assert skip[1] >= 0, "the link to the results is seen once it has the focus"
    regions = page.eval_on_selector_all(
        "[role=region]", "all => all.filter(e => e.checkVisibility()).map(e => e.getAttribute('aria-label'))"
    )
    reached = []
    for _ in range(600):
        page.keyboard.press("Tab")
        told = page.evaluate(
            "[document.activeElement.getAttribute('role'), document.activeElement.getAttribute('aria-label'),"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        if told[0] == "region":
            reached.append(told[1])
            assert told[2] == "solid", "the focus is seen"
        if len(reached) == len(regions):
            break
    assert reached == regions
    assert len(regions) > 15
    page.focus("[role=region]:has(.overview)")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    assert page.evaluate("document.querySelector('[role=region]:has(.overview)').scrollLeft") > 0


def test_a_link_of_the_overview_leads_to_its_evaluation(opened: Any) -> None:
    page = opened()
    page.locator(".overview a", has_text="dann").first.click()
    number = int(page.url.rpartition("-")[2])
    box = page.locator(f"#evaluation-{number} h2").bounding_box()
    assert box
    assert 0 <= box["y"] < DESKTOP[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_by_day_and_by_night(opened: Any, scheme: str) -> None:
    page = opened(scheme=scheme)
    page.evaluate(OPEN_ALL)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert {name: ratio for name, ratio in contrasts.items() if ratio < 4.5} == {}
    ink, paper = page.evaluate(
        "[getComputedStyle(document.querySelector('#transfer svg text[style*=currentColor]')).fill,"
        " getComputedStyle(document.body).backgroundColor]"
    )
    assert (ink, paper) == (
        ("rgb(27, 32, 38)", "rgb(255, 255, 255)") if scheme == "light" else ("rgb(228, 231, 234)", "rgb(20, 24, 29)")
    )


def test_paper_is_white_and_holds_everything(opened: Any, tmp_path: Path) -> None:
    page = opened(PAPER, "dark", media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") == PAPER[0]
    cut_off = page.eval_on_selector_all("table, svg.plot", "all => all.filter(e => e.getBoundingClientRect().right > 696)")
    assert cut_off == []
    closed = page.locator("#evaluation-1 .perclass")
    assert closed.bounding_box()["height"] > 50, "what is folded on the screen is printed"
    assert not page.locator("nav").is_visible()
    page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True, print_background=True)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_screenshots(opened: Any, tmp_path: Path, size: tuple[int, int], scheme: str) -> None:
    page = opened(size, scheme)
    page.evaluate(OPEN_ALL.replace("'details'", "'#evaluation-2 details'"))
    for part in ("transfer", "embeddings", "evaluation-2"):
        file = tmp_path / f"{part}-{size[0]}-{scheme}.png"
        page.locator(f"#{part}").screenshot(path=file)
        assert file.stat().st_size > 5_000
