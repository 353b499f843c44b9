"""The page of a run in a real browser: accessible, whole on a phone, on a desk and on paper."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.browser.jupyter import AXE, SERIOUS
from xaibench.report import html
from xaibench.report.html import write_report
from xaibench.run.folder import open_run
from xaibench.run.page import present

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NARROW, WIDE = 420, 1280
PAPER = 1027  # A4 landscape less its margins, at 96 pixels an inch

OVERFLOWING = """() => {
    const root = document.documentElement;
    if (root.scrollWidth <= root.clientWidth) return [];
    return [...document.querySelectorAll("body *")]
        .filter(one => one.getBoundingClientRect().right > root.clientWidth + 1 && !one.closest(".scroll, .wide, pre"))
        .map(one => one.outerHTML.slice(0, 120));
}"""
"""What sticks out of the page, where it can be scrolled sideways."""

CUT = """() => [...document.querySelectorAll("main *")]
    .filter(one => one.checkVisibility && !one.checkVisibility({contentVisibilityAuto: true})
        || one.getBoundingClientRect().right > innerWidth + 1)
    .map(one => one.outerHTML.slice(0, 120))"""
"""What is hidden or lies beyond the paper's edge."""


@pytest.fixture(scope="module")
def report(tiny_run, tmp_path_factory):
    """The page of the tiny run, drawn by the code as it is."""
    run = open_run(shutil.copytree(tiny_run, tmp_path_factory.mktemp("report") / "run"))
    present(run)
    return run.folder / "report.html"


@pytest.fixture
def page(chromium, report):
    """show(width, **options) -> the report, or another file, in a window of that width."""
    opened = []

    def show(width, file=report, **options):
        opened.append(chromium.new_page(viewport={"width": width, "height": 900}, bypass_csp=True, **options))
        opened[-1].goto(file.as_uri())
        return opened[-1]

    yield show
    for one in opened:
        one.close()


@pytest.mark.skipif(not AXE.is_file(), reason=f"no axe-core at {AXE}: give the path of axe.min.js in XAIBENCH_AXE")
@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(page, width, scheme):
    shown = page(width, color_scheme=scheme)
    shown.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    shown.add_script_tag(path=AXE)
    found = shown.evaluate("axe.run()")["violations"]
    serious = [one for one in found if one["impact"] in SERIOUS]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in serious] == []


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_the_page_is_never_scrolled_sideways(page, width, tmp_path):
    shown = page(width)
    shown.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    shown.screenshot(path=tmp_path / "report.png", full_page=True)
    assert shown.evaluate(OVERFLOWING) == []
    assert shown.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert (tmp_path / "report.png").stat().st_size > 10_000


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_what_is_wider_than_the_page_can_be_scrolled_and_says_so(page, width):
    shown = page(width)
    shown.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    shown.wait_for_function("document.querySelector('.more')")
    silent = """() => [...document.querySelectorAll(".scroll, .wide")]
        .filter(one => one.scrollWidth > one.clientWidth + 1)
        .filter(one => !getComputedStyle(one.closest("figure").querySelector("figcaption"), "::after")
            .content.includes("Scroll sideways"))
        .map(one => one.getAttribute("aria-label"))"""
    assert shown.evaluate(silent) == []


def test_the_contents_lead_to_every_heading(page):
    shown = page(WIDE)
    links = shown.locator("nav a")
    assert links.all_inner_texts() == shown.locator("h2").all_inner_texts()
    links.last.click()
    shown.wait_for_function("document.querySelector('h2:last-of-type') && scrollY > 0")
    for name in shown.locator(".files a").evaluate_all("links => links.map(link => decodeURI(link.href))"):
        assert Path(name.removeprefix("file://")).is_file()


def on_paper(page, **options):
    """The page as it is printed; nothing of it is hidden or cut."""
    shown = page(PAPER, **options)
    shown.emulate_media(media="print")
    shown.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert shown.evaluate(CUT) == []
    assert shown.evaluate("[...document.querySelectorAll('details')].every(one => one.open)")
    assert shown.evaluate("document.documentElement.scrollWidth") <= PAPER
    return shown


def test_on_paper_nothing_is_hidden_or_cut(page):
    shown = on_paper(page)
    shown.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not shown.evaluate("[...document.querySelectorAll('details')].some(one => one.open)")


def test_long_names_and_wide_tables_keep_to_the_page(page, tmp_path):
    name = "influence[subdistill:centring=mean,layer_weight=50,basis=prcaposdef]:refresh=3,pseudo=0.5" * 2
    table = pd.DataFrame({"method": [name] * 3} | {f"{name} {i}": [-0.123] * 3 for i in range(3)})
    wide = pd.DataFrame({"method": ["kd"]} | {f"score {i}": [-0.123] for i in range(18)})
    blocks = [
        html.paragraph(name),
        html.code(name),
        html.sheet(table, name),
        html.folded(name, html.sheet(wide, "Wide")),
    ]
    file = write_report(tmp_path / "a.html", title=name, headline=name, sections=[html.Section(name, blocks)])
    assert page(NARROW, file=file).evaluate(OVERFLOWING) == []
    on_paper(page, file=file)


def test_a_heading_sorts_its_table_and_says_so(page):
    shown = page(WIDE)
    table = shown.locator("table").first
    table.locator("thead button").first.click()
    assert table.locator("thead th").first.get_attribute("aria-sort") == "ascending"
    names = table.locator("tbody th").all_inner_texts()
    assert names == sorted(names)
