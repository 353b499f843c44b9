import pytest
from hypothesis import given
from hypothesis import strategies as st

from xaibench.errors import ConfigError, UnknownNameError
from xaibench.study.config import StudyConfig

GRID = {
    "methods": ["kd", "subdistill"],
    "seeds": [0, 1],
    "vary": {"data.subtask": ["tops", ["Sandal", "Sneaker"]], "data.fraction": [0.5, 1]},
}


def test_a_grid_has_a_run_for_each_point_and_the_last_axis_changes_fastest():
    config = StudyConfig.from_dict(GRID)
    assert [one.name for one in config.conditions] == [
        "tops_fraction0.5",
        "tops_fraction1",
        "Sandal-Sneaker_fraction0.5",
        "Sandal-Sneaker_fraction1",
    ]
    assert config.conditions[2].levels == (("subtask", "Sandal Sneaker"), ("fraction", "0.5"))
    assert config.conditions[2].config.data.subtask == ("Sandal", "Sneaker")
    assert config.axes == (("subtask", ("tops", "Sandal Sneaker")), ("fraction", ("0.5", "1")))
    assert config.students == 4 * 2 * 2


def test_no_axis_is_one_run():
    (only,) = StudyConfig.from_dict({"methods": ["kd"]}).conditions
    assert (only.name, only.levels) == ("run", ())


def test_an_axis_may_be_written_as_nested_tables_or_with_dots():
    nested = {**GRID, "vary": {"data": {"subtask": GRID["vary"]["data.subtask"], "fraction": [0.5, 1]}}}
    assert StudyConfig.from_dict(nested) == StudyConfig.from_dict(GRID)


def test_keys_that_change_together_have_a_name():
    pairs = [
        {"name": "narrow", "student": {"architecture": "resnet18-cifar:4-4-4-4@4"}, "train.epochs": 2},
        {"name": "wide", "student.architecture": "resnet18-cifar:8-8-8-8@8"},
    ]
    config = StudyConfig.from_dict({"vary": {"pair": pairs}})
    narrow, wide = config.conditions
    assert (narrow.name, narrow.config.train.epochs) == ("narrow", 2)
    assert wide.config.student.architecture == "resnet18-cifar:8-8-8-8@8"


def test_assignments_come_last_and_reach_axes():
    config = StudyConfig.from_dict(GRID, assignments=["vary.data.fraction=[0.1]", "train.epochs=3", "claim=kd"])
    assert len(config.conditions) == 2
    assert {one.config.train.epochs for one in config.conditions} == {3}
    assert config.claim == "kd"


def test_the_small_scale_merges_tables_and_replaces_lists():
    raw = GRID | {"train": {"epochs": 9, "lr": 0.5}, "small": {"seeds": [3], "train": {"epochs": 1}}}
    small, full = (StudyConfig.from_dict(raw, scale=scale) for scale in ("small", "full"))
    assert (small.seeds, full.seeds) == ((3,), (0, 1))
    assert [(c.conditions[0].config.train.epochs, c.conditions[0].config.train.lr) for c in (small, full)] == [
        (1, 0.5),
        (9, 0.5),
    ]
    assert len(small.conditions) == 4


def test_a_claim_is_known_by_the_shortest_text_of_its_method():
    config = StudyConfig.from_dict({"methods": ["kd", "subdistill"], "claim": "subdistill:layer_weight=100"})
    assert config.claim == "subdistill"


@given(st.lists(st.text("ab/ :.-", min_size=1, max_size=80), min_size=1, max_size=6, unique=True))
def test_every_run_has_a_folder_of_its_own(names):
    pairs = [{"name": name, "data.seed": seed} for seed, name in enumerate(names)]
    conditions = StudyConfig.from_dict({"vary": {"pair": pairs}}).conditions
    folders = [one.name.lower() for one in conditions]
    back = StudyConfig.from_dict({"vary": {"pair": pairs[::-1]}}).conditions
    assert [one.name for one in back[::-1]] == [one.name for one in conditions]  # whatever their order
    assert len(set(folders)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") and name[0].isalnum() for name in folders)


@pytest.mark.parametrize(
    ("raw", "error", "says"),
    [
        ({"vary": {"data.subtsk": ["tops"]}}, UnknownNameError, "did you mean 'subtask'"),
        ({"vary": {"dta.subtask": ["tops"]}}, UnknownNameError, "did you mean 'data'"),
        ({"methds": ["kd"]}, UnknownNameError, "did you mean 'methods'"),
        ({"clam": "kd"}, UnknownNameError, "unknown key 'clam': did you mean 'claim'"),
        ({"smal": {}}, UnknownNameError, "did you mean 'small'"),
        ({"vary": {"train.lr": [1, 1.0]}}, ConfigError, "lr=1.0 is the same run as lr=1: keep one"),
        ({"vary": {"similarity.metrics": [["cosine"]]}}, ConfigError, "every run has all similarity.metrics"),
        ({"vary": {"methods": [["kd"]]}}, ConfigError, "every run has all methods"),
        ({"vary": {"data.fraction": []}}, ConfigError, "must be a list of the values"),
        ({"vary": {"data.fraction": 0.5}}, ConfigError, "must be a list of the values"),
        ({"vary": {"data.fraction": [0.5, 0.5]}}, ConfigError, "has '0.5' twice"),
        ({"vary": {"data.fraction": [0.5, 2]}}, ConfigError, "fraction=2: data.fraction must be at most 1"),
        ({"vary": {"pair": [{"data.fraction": 0.5}]}}, ConfigError, "needs a name"),
        ({"vary": {"pair": [{"name": "x"}]}}, ConfigError, "changes nothing"),
        (
            {"vary": {"pair": [{"name": "x", "data.fraction": 0.5}], "data.fraction": [0.1]}},
            ConfigError,
            "data.fraction is set by both vary.pair and vary.data.fraction",
        ),
        ({"vary": ["tops"]}, ConfigError, "vary must be a table"),
        ({"vary": {"methods.x": [1]}, "methods": ["kd"]}, ConfigError, "methods is a value, not a table"),
        ({"claim": "kdd"}, UnknownNameError, "kdd"),
        ({"methods": ["kd"], "claim": "at"}, UnknownNameError, "unknown claim 'at'"),
        ({"methods": ["kd"], "control": "at"}, UnknownNameError, "unknown control 'at'"),
        ({"methods": ["kd", "at"], "claim": "kd", "control": "at"}, ConfigError, "claim is 'kd' and control 'at'"),
        (
            {"vary": {"p": [{"name": "x", "methods": ["at"]}]}},
            ConfigError,
            "vary.p sets methods, but every run has all",
        ),
        ({"vary": {"learning rate": [{"name": "x", "train.lr": 1}]}}, ConfigError, "cannot be an axis' name"),
        ({"vary": {"method": [{"name": "x", "train.lr": 1}]}}, ConfigError, "cannot be an axis' name"),
        ({"about": 3}, ConfigError, "about must be text"),
        ({"methods": ["kd", "kd"]}, ConfigError, "named twice"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(raw, error, says):
    with pytest.raises(error) as caught:
        StudyConfig.from_dict(raw)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_small_scale_has_keys_of_a_study():
    with pytest.raises(UnknownNameError, match=r"unknown key 'small\.sedes': did you mean 'small\.seeds'"):
        StudyConfig.from_dict({"small": {"sedes": [1]}}, scale="small")
    with pytest.raises(ConfigError, match=r"small\.seeds cannot be set: add --scale small and set seeds itself"):
        StudyConfig.from_dict({"small": {"seeds": [1]}}, assignments=["small.seeds=[2]"])
    with pytest.raises(UnknownNameError, match="unknown key 'clam': did you mean 'claim'"):
        StudyConfig.from_dict({}, assignments=["clam=kd"])


def test_a_column_of_a_table_is_no_axis():
    config = StudyConfig.from_dict({"vary": {"explain.images": [10, 20]}})
    assert config.axes == (("explain.images", ("10", "20")),)


def test_subtasks_are_counted():
    assert StudyConfig.from_dict(GRID).subtasks == 2
    assert StudyConfig.from_dict({"vary": {"data.fraction": [0.5, 1]}}).subtasks == 1


def test_scales_are_known_by_name():
    with pytest.raises(UnknownNameError, match="unknown scale 'smal': did you mean 'small'"):
        StudyConfig.from_dict(GRID, scale="smal")
    with pytest.raises(ConfigError, match=r"has no \[small\]"):
        StudyConfig.from_dict(GRID, scale="small")


def test_an_axis_that_is_called_like_a_column_keeps_its_section():
    config = StudyConfig.from_dict({"vary": {"data.seed": [0, 1], "data.fraction": [1.0]}})
    assert [axis for axis, _ in config.axes] == ["data.seed", "fraction"]


@pytest.mark.parametrize(
    ("assignments", "scale", "says"),
    [
        (["data.subtask=tops"], "full", "data.subtask would have no effect, as the axis vary.data.subtask sets it"),
        ([], "small", "data.fraction would have no effect, as the axis vary.size sets it"),
    ],
)
def test_what_the_grid_sets_is_not_set_beside_it(assignments, scale, says):
    raw = {
        "vary": {"data.subtask": ["tops", "footwear"], "size": [{"name": "half", "data.fraction": 0.5}]},
        "small": {"data": {"fraction": 0.1}},
    }
    with pytest.raises(ConfigError, match=says):
        StudyConfig.from_dict(raw, assignments=assignments, scale=scale)
