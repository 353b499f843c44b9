"""The page: well-formed, asking for nothing, everything given escaped."""

import base64
import io
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from PIL import Image

from xaibench.figures.style import new_figure, save_figure
from xaibench.report.html import (
    Picture,
    Section,
    code,
    colour_key,
    file_list,
    folded,
    paragraph,
    picture,
    preformatted,
    sheet,
    write_report,
)
from xaibench.report.result_table import ResultTable

EVIL = '<img src="http://example.org/x.png" onerror="alert(1)">&\'"'


class Collector(HTMLParser):
    """Every tag with its attributes, and whether tags are closed in order."""

    VOID = {"meta", "link", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page(tmp_path):
    figure = new_figure(2, 1)
    table = pd.DataFrame({"method": [EVIL, "b"], EVIL: [0.5, 0.25], "passed": [True, False]})
    save_figure(figure, tmp_path / "stored", ("png",))
    blocks = [
        paragraph(EVIL, "note"),
        code(EVIL, EVIL),
        sheet(table, f"Table {EVIL}: what it shows."),
        sheet(ResultTable(table, EVIL, {EVIL: [0]})),
        folded(EVIL, preformatted(EVIL)),
        picture(Picture(figure, f"Caption {EVIL}", f"Seen {EVIL}")),
        picture(Picture(tmp_path / "stored.png", "Second", "A plot")),
        colour_key({EVIL: "#ff0000"}),
        file_list({"a b&\"'.csv": EVIL}),
    ]
    sections = [Section(f"Title {EVIL}", blocks), Section("Nothing", []), Section("The end", [paragraph("text")])]
    path = write_report(tmp_path / "report.html", title=f"Title {EVIL}", headline=f"Answer {EVIL}", sections=sections)
    return path.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_asks_for_nothing(page):
    collected = Collector(page)
    assert not collected.open
    assert page.startswith("<!DOCTYPE html>")
    for tag, attributes in collected.tags:
        assert attributes.get("src", "data:").startswith("data:"), (tag, attributes)
        assert attributes.get("href", "#").startswith(("data:", "#", "a%20b")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    policy = next(a["content"] for t, a in collected.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "url(" not in page
    assert "@import" not in page


def test_everything_given_is_escaped(page):
    collected = Collector(page)
    tags = [tag for tag, _ in collected.tags]
    assert tags.count("script") == 1
    assert tags.count("img") == 2
    assert "http://example.org" not in re.sub("&lt;img src=&quot;http://example.org", "", page)
    assert collected.text.count(EVIL) == 19


def test_the_contents_name_each_section_that_holds_something(page):
    collected = Collector(page)
    links = [a["href"] for tag, a in collected.tags if tag == "a" and a["href"].startswith("#")]
    ids = [f"#{a['id']}" for tag, a in collected.tags if tag == "h2"]
    assert links == ids
    assert len(set(ids)) == 2
    assert "Nothing" not in collected.text


def test_pictures_are_inside_and_what_is_seen_is_said(page):
    images = [attributes for tag, attributes in Collector(page).tags if tag == "img"]
    assert [image["alt"] for image in images] == [f"Seen {EVIL}", "A plot"]
    sizes = [Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).size for image in images]
    assert sizes == [(400, 200), (600, 300)]
    assert [(int(image["width"]), int(image["height"])) for image in images] == sizes


def test_what_is_best_is_bold_and_the_caption_says_so(page):
    assert page.count("<strong>0.500</strong>") == 1
    assert page.count("Bold: the highest mean of those compared") == 1
    assert '<td class="no" data-value="False">no</td>' in page


def test_it_serves_phones_dark_rooms_and_keyboards(page):
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in page
    assert "prefers-color-scheme: dark" in page
    regions = [a for _, a in Collector(page).tags if a.get("role") == "region"]
    assert len(regions) == 4
    assert all(one["aria-label"] and one["tabindex"] == "0" for one in regions)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    def write(name):
        blocks = [picture(Picture(new_figure(1, 1), "c", "s"))]
        sections = [Section("t", blocks)]
        return write_report(tmp_path / name, title="t", headline="h", sections=sections).read_bytes()

    assert write("a.html") == write("b.html")
