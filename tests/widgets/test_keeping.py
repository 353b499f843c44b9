"""What an explorer writes: the figure on show, and beside it where that comes from."""

import json

import pytest

import xaibench
from xaibench.errors import RunFolderError
from xaibench.widgets.explorer import Explorer
from xaibench.widgets.keeping import FORMATS, keep, provenance


@pytest.mark.parametrize("form", FORMATS)
def test_a_figure_is_written_with_its_provenance_in_the_format_that_is_asked_for(fake_run, tmp_path, form):
    explorer = Explorer(fake_run)
    written = keep(explorer, tmp_path / "figures" / "one.svg", form)  # the suffix of a format is none of the name
    assert [path.name for path in written] == [f"one.{form}", "one.json"]
    assert json.loads(written[1].read_text()) == json.loads(json.dumps(provenance(explorer)))
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(path.name for path in written)


def test_a_name_with_a_dot_is_kept(fake_run, tmp_path):
    assert [path.name for path in keep(Explorer(fake_run), tmp_path / "v1.2", "png")] == ["v1.2.png", "v1.2.json"]


def test_a_path_without_a_name_is_refused(fake_run, tmp_path):
    with pytest.raises(RunFolderError, match="names no file: write a name"):
        keep(Explorer(fake_run), type(tmp_path)("/"), "png")


def test_the_provenance_says_what_is_shown_of_what(fake_run):
    explorer = Explorer(fake_run, rows=2, image="test/004", explainer="ig", students=("kd/seed1",))
    about = provenance(explorer)
    assert about["xaibench"] == xaibench.__version__
    assert list(about["images"]) == ["test/004", "test/005"]
    assert about["images"]["test/004"] == dict(zip(("explained", "rather than"), explorer.on_show[0].asked))
    assert (about["explainer"], about["metric"], about["sign"], about["grid"]) == ("ig", "cosine", "signed", 7)
    assert about["scores"]["test/005"] == {"kd/seed1": explorer.on_show[1].scores["kd/seed1"].value}
    assert about["models"] == {}  # no model was needed
    assert about["code"] == explorer.code()
