"""Configurations: what is written is what is read; what is wrong is named with the nearest right name."""

import dataclasses
import datetime
import math
import pickle
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.distillation.recipe import Recipe
from xaibench.errors import ConfigError, XaibenchError
from xaibench.run.config import DataConfig, ExplainConfig, RunConfig, TeacherConfig, presets
from xaibench.run.settings import problems


def all_keys():
    """(section, key) of everything that a configuration may say."""
    for name, value in RunConfig().to_dict().items():
        yield from [(name, key) for key in value] if isinstance(value, dict) else [(name, "")]


def test_the_defaults_are_a_whole_run():
    config = RunConfig.from_dict({})
    assert config.data.dataset == "fashion-mnist"
    assert config.explain.explainers == ("lrp", "ig")
    assert config == RunConfig()


def test_every_preset_can_be_read_and_names_itself():
    assert "demo" in presets()
    for name, text in presets().items():
        assert RunConfig.load(name) == RunConfig.from_dict(tomllib.loads(text))


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from(["kd", "student-only", "subdistill", "kd:alpha=0.5"]), min_size=1, unique=True),
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4, unique=True),
    st.floats(0.01, 1.0),
    st.one_of(st.none(), st.tuples(st.integers(1, 300), st.integers(1, 300))),
    st.integers(2, 500),
)
def test_a_configuration_survives_the_manifest(methods, seeds, fraction, size, images):
    raw = {"methods": methods, "seeds": seeds, "explain": {"images": images}}
    raw["data"] = {"fraction": fraction, "size": size, "subtask": ["Coat", "Shirt"]}
    config = RunConfig.from_dict(raw)
    assert RunConfig.from_dict(config.to_dict()) == config
    assert (config.methods, config.seeds) == (tuple(methods), tuple(seeds))


@pytest.mark.parametrize("assignments", [[], ["student.layers=auto"], ["student.layers='auto'"]])
def test_layers_are_suggested_unless_they_are_given(assignments):
    config = RunConfig().override(assignments)
    assert config == RunConfig()
    assert config.student.pairs is None
    given = RunConfig().override(["student.layers=['layer1:blocks.0', 'layer2']"])
    assert given.student.pairs == (("layer1", "blocks.0"), ("layer2", "layer2"))
    assert RunConfig().override(["student.layers=[]"]).student.pairs == ()


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("train.epochs=5", lambda c: c.train.epochs == 5),
        ("train.lr=1", lambda c: c.train.lr == 1.0 and isinstance(c.train.lr, float)),
        ("data.subtask=tops", lambda c: c.data.subtask == "tops"),
        ('data.subtask=["Coat", "Shirt"]', lambda c: c.data.subtask == ("Coat", "Shirt")),
        ("methods=['kd']", lambda c: c.methods == ("kd",)),
        ("train.schedule='cosine'", lambda c: c.train.schedule == "cosine"),
        ("data.download=true", lambda c: c.data.download is True),
    ],
)
def test_an_override_sets_one_value(assignment, read):
    config = RunConfig()
    assert read(config.override([assignment]))
    assert config == RunConfig()


WRONG = [
    ({"method": ["kd"]}, "unknown key 'method': did you mean 'methods'"),
    ({"train": {"epoch": 3}}, r"unknown key in \[train\] 'epoch': did you mean 'epochs'"),
    ({"train": 3}, "train must be a table, got 3"),
    ({"train": {"epochs": "many"}}, "train.epochs must be a whole number, got 'many'"),
    ({"train": {"epochs": True}}, "train.epochs must be a whole number, got True"),
    ({"train": {"epochs": 0}}, "epochs must be above 0"),
    ({"train": {"lr": float("nan")}}, "lr must be above 0"),
    ({"train": {"batch_size": 1}}, "batch normalisation needs more than one"),
    ({"train": {"schedule": "cosin"}}, "did you mean 'cosine'"),
    ({"train": {"precision": "bf16"}}, "unknown precision 'bf16'"),
    ({"methods": []}, r"methods must have at least 1 item, got \[\]"),
    ({"methods": ["subdistil"]}, "unknown method 'subdistil': did you mean 'subdistill'"),
    ({"methods": ["subdistill:centering=mean"]}, "did you mean 'centring'"),
    ({"methods": ["subdistill:centring=means"]}, "unknown centring 'means': did you mean 'mean'"),
    ({"methods": ["subdistill:basis=prcapos"]}, "unknown basis 'prcapos': did you mean 'prcaposdef'"),
    ({"methods": ["kd:alpha=2"]}, "alpha must be between 0 and 1"),
    ({"methods": ["kd", "kd"]}, "methods: 'kd' is named twice"),
    ({"seeds": [0, 0]}, "seeds: 0 is named twice"),
    ({"seeds": [-1]}, r"seeds\[0\] must be at least 0, got -1"),
    ({"seeds": [0.5]}, r"seeds\[0\] must be a whole number, got 0.5"),
    ({"explain": {"explainers": ["lpr"]}}, "unknown explainer 'lpr': did you mean 'lrp'"),
    ({"explain": {"images": 1}}, "explain.images must be at least 2"),
    ({"explain": {"contrast": "techer"}}, "did you mean 'teacher'"),
    ({"similarity": {"metrics": ["cosin"]}}, "unknown metric 'cosin': did you mean 'cosine'"),
    ({"similarity": {"sign": "absolut"}}, "did you mean 'absolute'"),
    ({"student": {"layers": ["layer1:"]}}, "not of the form teacher:student"),
    (
        {"student": {"layers": "layer1"}},
        "student.layers must be 'auto' or a list of texts, got 'layer1'",
    ),
    ({"data": {"size": [0]}}, r"data.size\[0\] must be at least 1, got 0"),
    ({"data": {"size": [1, 2, 3]}}, "data.size must have at most 2 items"),
    ({"data": {"size": [10**8]}}, r"data.size\[0\] must be at most 4096, got 100000000"),
    (
        {
            "data": {
                "size": [32],
            },
            "similarity": {"grid": 33},
        },
        "similarity.grid = 33 does not fit images of 32 pixels",
    ),
    ({"data": {"seed": -1}}, "data.seed must be at least 0, got -1"),
    ({"seeds": [2**31]}, r"seeds\[0\] must be at most 2147483647, got 2147483648"),
    ({"train": {"lr": float("inf")}}, "lr must be above 0 and finite, got inf"),
    ({"explain": {"explainers": []}}, r"explain.explainers must have at least 1 item, got \[\]"),
    ({"similarity": {"metrics": []}}, r"similarity.metrics must have at least 1 item, got \[\]"),
    ({"similarity": {"metrics": ["cosine", "cosine"]}}, "similarity.metrics: 'cosine' is named twice"),
    ({"teacher": {"mean": [0.5]}}, "teacher.mean and teacher.std belong together"),
]


@pytest.mark.parametrize(("raw", "message"), WRONG, ids=[m[:40] for _, m in WRONG])
def test_a_wrong_value_is_named(raw, message):
    with pytest.raises(XaibenchError, match=message) as caught:
        RunConfig.from_dict(raw)
    assert "\n" not in str(caught.value)


ODD = (
    *(None, True, -1, 0, 1, 2**31, 10**8, 10**30, -0.5, math.inf, math.nan, "", "auto", "/no/where"),
    *([], [""], ["x"], [-1], [0], [math.nan], ["a", "a"], [1, 1], [[1]], {}, {"a": 1}, datetime.date(2026, 1, 1)),
)


FREE = ("lr", "weight_decay", "gamma", "cache_gb")
TEXTS = ("dataset", "subtask", "root", "checkpoint", "architecture", "classes", "layers")


@pytest.mark.parametrize("key", [f"{s}.{k}" if k else s for s, k in all_keys()])
def test_an_odd_value_is_refused_in_one_line_or_is_none_that_harms(key):
    section, _, name = key.partition(".")
    for value in ODD:
        raw = {section: {name: value}} if name else {section: value}
        found = problems(RunConfig, raw)
        if found:
            with pytest.raises(XaibenchError) as caught:
                RunConfig.from_dict(raw)
            assert str(found[0]) in str(caught.value)
            assert all("\n" not in str(one) for one in found)
            continue
        config = RunConfig.from_dict(raw)
        assert RunConfig.from_dict(config.to_dict()) == config
        numbers = [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int | float)]
        assert name in FREE or all(0 <= n < 2**31 and math.isfinite(n) for n in numbers)
        assert name in TEXTS or value not in ([], "")


def test_equal_methods_and_explainers_have_one_name():
    config = RunConfig.from_dict({"methods": ["kd: temperature=2", "kd:alpha=0.5, temperature = 4"]})
    assert config.methods == RunConfig(methods=("kd:temperature=2.0", "kd:temperature=4,alpha=0.5")).methods
    assert config.methods[0] == "kd:temperature=2"
    explained = RunConfig().override(["explain.explainers=['ig:budget=257', 'lrp: gamma=0.50']"]).explain
    assert explained.explainers == ("ig", "lrp:gamma=0.5")
    for section, values in (
        ("methods", ["kd", "kd:alpha=0.9"]),
        ("methods", ["kd:temperature=2", "kd: temperature=2"]),
    ):
        with pytest.raises(ConfigError, match=r"methods: 'kd.*' is named twice: keep each once"):
            RunConfig.from_dict({section: values})
    with pytest.raises(ConfigError, match=r"explain\.explainers: 'ig' is named twice"):
        RunConfig.from_dict({"explain": {"explainers": ["ig", "ig:budget=257"]}})


def test_relative_paths_lie_beside_the_file_and_are_kept_absolute(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "my.toml").write_text("""
[data]
dataset = "imagefolder:images"
[teacher]
checkpoint = "teacher.pt"
architecture = "nets.py:Big"
[student]
architecture = "../nets.py:Small"
[explain]
explainers = ["ig:baseline=grey.safetensors"]
""")
    monkeypatch.chdir(tmp_path)
    config = RunConfig.load("sub/my.toml")
    here = str(tmp_path / "sub")
    assert config.data.dataset == f"imagefolder:{here}/images"
    assert config.teacher.checkpoint == f"{here}/teacher.pt"
    assert config.teacher.architecture == f"{here}/nets.py:Big"
    assert config.student.architecture == f"{here}/../nets.py:Small"
    assert config.explain.explainers == (f"ig:baseline={here}/grey.safetensors",)
    monkeypatch.chdir("/")
    assert RunConfig.from_dict(config.to_dict()) == config
    assert RunConfig.from_dict(config.to_dict(), tmp_path) == config


def test_relative_paths_of_overrides_and_of_python_lie_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunConfig().override(["data.root=data"]).data.root == f"{tmp_path}/data"
    assert TeacherConfig(checkpoint="t.pt").checkpoint == f"{tmp_path}/t.pt"
    assert TeacherConfig(checkpoint="~/t.pt").checkpoint == str(Path.home() / "t.pt")
    for name in ("embedded:fashion-mnist/teacher.safetensors", "installed:efficientnet-lite0"):
        assert TeacherConfig(checkpoint=name).checkpoint == name
    assert DataConfig(dataset="imagefolder:images", root="data").dataset == "imagefolder:images"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RunConfig(methods="kd"), "methods must be a list of texts, got 'kd'"),
        (lambda: RunConfig(seeds=(True,)), r"seeds\[0\] must be a whole number, got True"),
        (lambda: RunConfig(train=3), "train must be a table, got 3"),
        (lambda: RunConfig(epochs=3), "unknown key 'epochs'"),
        (lambda: RunConfig.load(3), r"RunConfig\.load: path must be a Path or a text, got 3"),
        (lambda: RunConfig.parse(None), r"RunConfig\.parse: text must be a text, got None"),
        (lambda: RunConfig.from_dict([]), r"RunConfig\.from_dict: raw must be dict\[str, Any\], got \[\]"),
        (lambda: RunConfig().override("train.epochs=3"), "assignments must be Sequence"),
        (lambda: ExplainConfig(images=1), "images must be at least 2, got 1"),
        (lambda: Recipe(lr="x"), r"Recipe\.lr must be a number, got 'x'"),
        (lambda: Recipe(epochs=10**7), "epochs must be at most 1000000"),
    ],
)
def test_a_configuration_made_in_python_is_checked_too(make, message):
    with pytest.raises(XaibenchError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_configurations_are_hashed_and_pickled_as_values():
    config = RunConfig(methods=["kd"], data=DataConfig(size=[32]))
    assert pickle.loads(pickle.dumps(config)) == config
    assert len({config, RunConfig(methods=("kd",), data=DataConfig(size=(32,)))}) == 1
    assert dataclasses.replace(config, seeds=(1,)).seeds == (1,)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epochs", "not of the form section.key=value"),
        ("trian.epochs=3", "unknown section 'trian': did you mean 'train'"),
        ("train.epoch=3", "did you mean 'epochs'"),
        ("seeds=0", "seeds must be a list of whole numbers, got 0"),
    ],
)
def test_a_wrong_override_is_named(assignment, message):
    with pytest.raises(XaibenchError, match=message):
        RunConfig().override([assignment])


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration at .*none\.toml: give a TOML file or a preset \(demo"):
        RunConfig.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        RunConfig.load(tmp_path / "bad.toml")
    (tmp_path / "latin.toml").write_bytes(b"x = '\xff'")
    with pytest.raises(ConfigError, match=r"latin\.toml .*give a TOML file in UTF-8"):
        RunConfig.load(tmp_path / "latin.toml")


@pytest.mark.parametrize(("dataset", "label"), [("fashion-mnist", "fashion-mnist"), ("imagefolder:a/b/pets", "pets")])
def test_a_caption_names_an_image_folder_without_its_path(dataset, label):
    assert RunConfig.parse(f'data = {{dataset = "{dataset}"}}').data.label == label
