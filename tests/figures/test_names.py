from pathlib import Path

import pytest

from xaibench.distillation.methods import METHODS
from xaibench.errors import ConfigError
from xaibench.figures.names import METHOD_LABELS, explainer_label, method_label, metric_label, read_names


def test_every_method_has_a_label() -> None:
    assert set(METHOD_LABELS) == set(METHODS)
    assert len(set(METHOD_LABELS.values())) == len(METHODS)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("kd", "KD"),
        ("subdistill:centring=mean,layer_weight=50", "SubDistill (centring=mean, layer_weight=50)"),
        ("kd:temperature=2/seed12", "KD (temperature=2), seed 12"),
        ("kd:temperature=2+at", "KD (temperature=2) + AT"),
        ("influence[kd+at:kd_weight=0]", "Influence [KD + AT (kd_weight=0)]"),
        ("mine", "mine"),
        ("mine:a=1", "mine:a=1"),
        ("kd+mine", "kd+mine"),
        ("teacher", "teacher"),
    ],
)
def test_a_method_is_written_as_the_field_writes_it(name: str, shown: str) -> None:
    assert method_label(name) == shown


def test_names_override_whole_names_first_and_then_what_stands_before_options() -> None:
    names = {"kd": "Hinton et al.", "kd:temperature=2": "warm", "mine": "Ours", "lrp": "relevance", "cosine": "cos"}
    assert method_label("kd:temperature=2", names) == "warm"
    assert method_label("kd:temperature=3", names) == "Hinton et al. (temperature=3)"
    assert method_label("kd+at/seed0", names) == "Hinton et al. + AT, seed 0"
    assert method_label("mine:a=1", names) == "Ours (a=1)"
    assert explainer_label("lrp:eps=1", names) == "relevance (eps=1)"
    assert metric_label("cosine", names) == "cos"


@pytest.mark.parametrize(
    ("file", "text"),
    [("a.toml", '"kd:temperature=2" = "warm"\nlrp = "R"'), ("a.json", '{"kd:temperature=2": "warm", "lrp": "R"}')],
)
def test_names_are_read_from_toml_and_json(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    assert read_names(tmp_path / file) == {"kd:temperature=2": "warm", "lrp": "R"}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("none.toml", None, r"cannot read the names in .*none\.toml \(No such file or directory\)"),
        ("a.yaml", "kd: KD", r"names are read from a \.toml or \.json file, got .*a\.yaml"),
        ("a.toml", "kd = ", r"a\.toml is not valid TOML: Invalid value"),
        ("a.json", "{", r"a\.json is not valid JSON: Expecting"),
        ("a.json", '["kd"]', r"a\.json must hold one table of names, .* got a list"),
        ("a.toml", "[methods]\nkd = 'KD'", r"a\.toml: 'methods' must be a text that is not empty, got table"),
        ("a.json", '{"kd": ""}', r"a\.json: 'kd' must be a text that is not empty, got text ''"),
    ],
)
def test_a_file_of_names_that_cannot_be_used_is_one_clear_line(
    tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_names(tmp_path / file)
    assert "\n" not in str(caught.value)
