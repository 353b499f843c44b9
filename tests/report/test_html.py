import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xaibench.errors import DataError
from xaibench.figures.style import new_figure
from xaibench.report.html import headline, write_report

EVIL = '<img src="http://example.org/x.png" onerror="alert(1)">&\'"'


@pytest.fixture
def summary():
    rows = [("kd", "lrp", 0.5), ("subdistill", "lrp", 0.71), ("subdistill", "ig", 0.41), ("kd", "ig", 0.3)]
    return pd.DataFrame(
        [
            {
                "method": method,
                "explainer": explainer,
                "metric": "cosine",
                "mean": mean,
                "low": mean - 0.03,
                "high": mean + 0.03,
                "n": 300,
                "images": 100,
                "seeds": 1,
                "nan": 0,
                "chance": 0.0,
                "chance_sd": 0.125,
                "mismatched": 0.12,
            }
            for method, explainer, mean in rows
        ]
    )


@pytest.fixture
def page(tmp_path, summary):
    figure = new_figure(2, 1)
    path = write_report(
        tmp_path / "report.html",
        title=f"Title {EVIL}",
        headline=f"Answer {EVIL}",
        table=pd.DataFrame({"method": [EVIL], "accuracy": [0.5]}),
        summary=summary.assign(method=EVIL),
        figures={f"Caption {EVIL}": figure, "Second": figure},
        validity=pd.DataFrame({"model": ["teacher", EVIL], "value": [2e-5, 1.0], "passed": [True, False]}),
        manifest={"config": {"x": "</pre></details><script>alert(2)</script>"}, "path": tmp_path, EVIL: 1},
    )
    return path.read_text(encoding="utf-8")


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


def test_the_page_is_well_formed_and_asks_for_nothing(page):
    collected = Collector(page)
    assert not collected.open
    assert page.startswith("<!DOCTYPE html>")
    for tag, attributes in collected.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    policy = next(a["content"] for t, a in collected.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "url(" not in page
    assert "@import" not in page


def test_everything_given_is_escaped(page):
    collected = Collector(page)
    assert [tag for tag, _ in collected.tags].count("script") == 1
    assert [tag for tag, _ in collected.tags].count("img") == 2
    assert f"Title {EVIL}" in collected.text
    assert f"Answer {EVIL}" in collected.text
    assert "alert(2)" in collected.text


def test_pictures_are_inside_and_described(page):
    images = [attributes for tag, attributes in Collector(page).tags if tag == "img"]
    assert [image["alt"] for image in images] == [f"Caption {EVIL}", "Second"]
    data = base64.b64decode(images[0]["src"].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (400, 200) == (int(images[0]["width"]), int(images[0]["height"]))


def test_failed_checks_are_said(page):
    assert "1 of 2 checks failed." in page
    assert '<td class="no" data-value="False">no</td>' in page


def test_it_serves_phones_dark_rooms_and_keyboards(page):
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in page
    assert "prefers-color-scheme: dark" in page
    assert page.count('role="region"') == page.count('class="scroll"') == 3


def test_the_manifest_can_be_read_back(page):
    shown = re.search(r"<pre>(.*?)</pre>", page, re.DOTALL).group(1)
    manifest = json.loads(Collector(f"<p>{shown}</p>").text)
    assert manifest["config"]["x"].startswith("</pre>")


def test_the_same_input_gives_the_same_bytes(tmp_path, summary):
    def write(name):
        return write_report(
            tmp_path / name,
            title="t",
            headline="h",
            table=summary,
            summary=summary,
            figures={"c": new_figure(1, 1)},
            validity=pd.DataFrame({"passed": [True]}),
            manifest={},
        ).read_bytes()

    assert write("a.html") == write("b.html")
    assert b"All 1 checks passed." in write("c.html")


def test_the_headline_names_the_best_the_others_and_the_controls(summary):
    assert headline(summary) == (
        "On 100 images the heatmaps (LRP) of the student distilled with subdistill are the most like the teacher's: "
        "cosine 0.71 [0.68, 0.74]; kd 0.50; mismatched images give 0.12, chance is 0.00."
    )
    assert "(integrated gradients)" in headline(summary, explainer="ig")
    assert "On 100 images and over 3 seeds the heatmaps" in headline(summary.assign(seeds=3))


def test_the_headline_does_without_nulls_and_undefined_means(summary):
    summary.loc[summary["method"] == "kd", "mean"] = np.nan
    text = headline(summary.drop(columns="mismatched"))
    assert "kd" not in text
    assert text.endswith("[0.68, 0.74]; chance is 0.00.")


def test_a_headline_without_numbers_is_refused(summary):
    with pytest.raises(DataError, match="no defined 'ssim' of 'lrp': choose a metric"):
        headline(summary, explainer="lrp", metric="ssim")
