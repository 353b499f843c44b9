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
from xaibench.figures.style import new_figure, save_figure
from xaibench.report.html import headline, write_report

EVIL = '<img src="http://example.org/x.png" onerror="alert(1)">&\'"'


def plain_report(path, summary, **more):
    """A report of a summary, with as little else as there may be."""
    given = {"title": "t", "headline": "h", "table": summary, "summary": summary, "figures": {}, "manifest": {}}
    return write_report(path, **given | {"validity": pd.DataFrame({"passed": [True]})} | more)


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
                "explained": 120,
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
        summary=summary.assign(method=EVIL, nan=5),
        figures={f"Caption {EVIL}": figure, "Second": figure},
        validity=pd.DataFrame({"model": ["teacher", EVIL], "value": [2e-5, 1.0], "passed": [True, False]}),
        notes=[f"Note {EVIL}"],
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
    assert f"Note {EVIL}" in collected.text
    assert "alert(2)" in collected.text


def test_pictures_are_inside_and_described(page):
    images = [attributes for tag, attributes in Collector(page).tags if tag == "img"]
    assert [image["alt"] for image in images] == [f"Caption {EVIL}", "Second"]
    data = base64.b64decode(images[0]["src"].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (400, 200) == (int(images[0]["width"]), int(images[0]["height"]))


def test_failed_checks_are_said(page):
    assert "1 of 2 checks failed; 20 of 1220 scores are undefined and left out" in page
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
        return plain_report(tmp_path / name, summary, figures={"c": new_figure(1, 1)}).read_bytes()

    assert write("a.html") == write("b.html")
    assert b"All 1 checks passed; 0 of 1200 scores are undefined." in write("c.html")


def test_the_headline_names_the_best_the_others_and_the_controls(summary):
    assert headline(summary) == (
        "On 100 images the heatmaps (LRP) of the one student distilled with subdistill are the most like the teacher's "
        "of all: cosine 0.71 [0.68, 0.74]; kd 0.50; mismatched images give 0.12, chance is 0.00. "
        "One training of each says nothing about other seeds."
    )
    assert "(integrated gradients)" in headline(summary, explainer="ig")
    several = headline(summary.assign(seeds=3))
    assert "the heatmaps (LRP) of the 3 students distilled with subdistill are" in several
    assert "One training" not in several


def test_a_control_is_never_called_distilled(summary):
    better = pd.concat([summary, summary.iloc[:1].assign(method="student-only", mean=0.9, low=0.8, high=0.95)])
    text = headline(better)
    assert "distilled with subdistill are the most like the teacher's of all distilled ones: cosine 0.71" in text
    assert "control student-only 0.90" in text
    alone = headline(summary.iloc[:1].assign(method="random-control[kd]"))
    assert "of the one student of the control random-control[kd] are compared with the teacher's: cosine" in alone
    assert "distilled" not in alone


def test_the_headline_does_without_nulls_and_undefined_means(summary):
    summary.loc[summary["method"] == "kd", "mean"] = np.nan
    text = headline(summary.drop(columns="mismatched"))
    assert "kd" not in text
    assert "[0.68, 0.74]; chance is 0.00." in text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.04, 0.24, "+0.10 [-0.04, +0.24], which includes 0: that anything was taken over"),
        (0.02, 0.18, "+0.10 [+0.02, +0.18]: so much of its decision structure was taken over from the teacher."),
    ],
)
def test_the_headline_says_what_was_taken_over_from_the_teacher(summary, low, high, said):
    text = headline(summary.assign(lift=0.1, lift_low=low, lift_high=high))
    assert "chance is 0.00." in text
    assert f" Its lift over an independently trained student is {said}" in text
    negative = headline(summary.assign(lift=-0.2, lift_low=-0.3, lift_high=-0.1))
    assert "-0.20 [-0.30, -0.10]: it is less like the teacher than" in negative
    for lift in (0.1, np.nan):  # of one image; without an independent student
        assert headline(summary.assign(lift=lift, lift_low=np.nan, lift_high=np.nan)) == headline(summary)


def test_the_headline_takes_shifted_maps_for_the_zero_where_they_were_scored(summary):
    assert "mismatched images give 0.12, shifted maps give 0.21." in headline(summary.assign(shifted=0.21))
    assert "mismatched images give 0.12, chance is 0.00." in headline(summary.assign(shifted=np.nan))


def test_answers_to_further_questions_are_shown_where_there_are_any(tmp_path, summary, page):
    assert "Further questions" not in page
    save_figure(new_figure(2, 1), tmp_path / "cues", ("png",))
    further = {"cues: how to read them": tmp_path / "cues.png"}
    path = plain_report(tmp_path / "report.html", summary, further=further)
    collected = Collector(path.read_text(encoding="utf-8"))
    (image,) = (attributes for tag, attributes in collected.tags if tag == "img")
    assert (image["width"], image["height"], image["alt"]) == ("600", "300", "cues: how to read them")
    assert base64.b64decode(image["src"].partition(",")[2]) == (tmp_path / "cues.png").read_bytes()
    assert "Further questions" in collected.text


def test_the_page_says_how_many_images_and_seeds_the_means_rest_on(tmp_path, summary):
    def said(table):
        path = plain_report(tmp_path / "report.html", table)
        return re.search(r"every method has a score\. (.*)\.</p>", path.read_text(encoding="utf-8")).group(1)

    assert said(summary) == "LRP: 100 of 120 images and 1 seed; integrated gradients: 100 of 120 images and 1 seed"
    kd, lrp = summary["method"] == "kd", summary["explainer"] == "lrp"
    unequal = summary.assign(seeds=[3 - k for k in kd], images=np.where(lrp, 100, 90))
    ssim = unequal[lrp].assign(metric="ssim", images=70)
    assert said(pd.concat([unequal, ssim])) == (
        "LRP: 70 to 100 (by metric) of 120 images and 3 seeds (kd 2); "
        "integrated gradients: 90 of 120 images and 3 seeds (kd 2)"
    )


def test_a_headline_without_numbers_is_refused(summary):
    with pytest.raises(DataError, match="no defined 'ssim' of 'lrp': choose a metric"):
        headline(summary, explainer="lrp", metric="ssim")


def test_what_the_maps_account_for_stands_above_the_checks_and_is_escaped(tmp_path, summary, page):
    assert "What the maps account for" not in page
    measured = pd.DataFrame({"model": ["teacher", EVIL], "explainer": "lrp", "maps": "the map accounts for 21%"})
    text = plain_report(tmp_path / "report.html", summary, measured=measured).read_text(encoding="utf-8")
    assert text.index("What the maps account for") < text.index("Validity of the explanations")
    assert Collector(text).text.count("the map accounts for 21%") == 2
    assert EVIL not in text
    empty = plain_report(tmp_path / "empty.html", summary, measured=measured.iloc[:0]).read_text(encoding="utf-8")
    assert "What the maps account for" not in empty
