"""`xaibench check`: everything that is wrong with a configuration at once, without training or writing."""

import pytest

from xaibench.run.config import RunConfig

SMALL = """
methods = ["student-only"]
[data]
subtask = "footwear"
fraction = 0.05
[student]
architecture = "resnet18-cifar:4-4-4-4@4"
[explain]
explainers = ["input-x-gradient"]
"""


@pytest.fixture
def check(cli, tmp_path):
    """check(toml, arguments...) -> exit code, lines of stdout, lines of stderr; nothing may be written."""

    def run(text, *arguments):
        path = tmp_path / "my.toml"
        path.write_text(text)
        called = cli("check", path, *arguments)
        assert list(tmp_path.iterdir()) == [path]
        return called.code, called.out.splitlines(), called.err.splitlines()

    return run


def test_a_right_configuration_is_ok_and_what_it_would_do_is_said(check):
    code, out, _ = check(SMALL)
    assert code == 0
    assert out[0].endswith("my.toml is ok")
    assert any(line.startswith("students") and "1, of 100 epochs each" in line for line in out)
    assert any(
        line.startswith("faithfulness") and "8 passes an image in each order of 7x7 patches" in line for line in out
    )


def test_all_wrong_values_of_all_sections_are_said_one_a_line(check):
    wrong = """
methods = ["subdistil", "kd", "kd:gamma=2"]
seeds = [-1]
color = 3
[data]
fraction = 2.0
subtak = "tops"
[train]
lr = inf
epochs = 0
batch_size = "64"
[explain]
explainers = []
contrast = "techer"
[similarity]
metrics = ["cosin"]
grid = 0
"""
    code, out, lines = check(wrong)
    assert (code, out) == (2, [])
    expected = [
        "methods[0]: unknown method 'subdistil': did you mean 'subdistill'",
        "methods[2]: unknown option of method 'kd' 'gamma'",
        "seeds[0] must be at least 0, got -1",
        "unknown key 'color'",
        "data.fraction must be at most 1, got 2.0",
        "unknown key in [data] 'subtak': did you mean 'subtask'",
        "train.batch_size must be a whole number, got '64'",
        "explain.explainers must have at least 1 item, got []",
        "unknown explain.contrast 'techer': did you mean 'teacher'",
        "similarity.metrics[0]: unknown metric 'cosin': did you mean 'cosine'",
        "similarity.grid must be at least 1, got 0",
    ]
    assert len(lines) == len(expected)
    for text in expected:
        assert any(line.startswith(f"error: {text}") for line in lines), (text, lines)


def test_a_section_that_refuses_several_fields_names_each(check):
    _, _, lines = check("[train]\nlr = inf\nepochs = 0\nschedule = 'cosin'")
    assert [line.removeprefix("error: train: ")[:9] for line in lines] == ["lr must b", "epochs mu", "unknown s"]


def test_teacher_and_student_are_both_said(check):
    code, _, lines = check(SMALL.replace("4-4-4-4@4", "4-4-4") + "[teacher]\ncheckpoint = '/no/where.pt'")
    assert code == 2
    assert any("no checkpoint at /no/where.pt" in line for line in lines)
    assert any("must be 4 positive integers" in line for line in lines)


def test_each_method_and_explainer_is_tried(check):
    settings = ("methods=['kd', 'fitnet:layers=layer9']", "explain.explainers=['gradcam:layer=conv9', 'lrp']")
    code, _, lines = check(SMALL, *(part for setting in settings for part in ("--set", setting)))
    assert code == 2
    assert [line.split(":")[1] for line in lines] == [" method fitnet", " explainer gradcam"]
    assert "layer9" in lines[0]
    assert "conv9" in lines[1]


def test_too_few_images_for_a_batch_are_said_once(check):
    settings = ("methods=['kd', 'student-only']", "train.batch_size=256", "train.drop_last=true")
    code, _, lines = check(SMALL, *(part for setting in settings for part in ("--set", setting)))
    assert (code, len(lines)) == (2, 1)
    assert "120 training images do not fill a batch of 256: use a larger fraction, a smaller batch_size" in lines[0]


def test_an_override_is_checked_too(check):
    code, _, lines = check(SMALL, "--set", "train.epochs=-3")
    assert (code, lines) == (2, ["error: train: epochs must be above 0 and finite, got -3"])
    code, _, lines = check(SMALL, "--set", "trian.epochs=3")
    assert code == 2
    assert "unknown section 'trian': did you mean 'train'" in lines[0]


def test_init_writes_a_file_that_can_be_checked_and_keeps_what_is_there(cli, tmp_path):
    path = tmp_path / "new" / "my.toml"
    assert cli("init", path).code == 0
    assert RunConfig.load(path) == RunConfig()
    assert cli("init").out == path.read_text()
    assert "exists already" in cli("init", path).error
    assert "ends in .toml" in cli("init", tmp_path / "my.txt").error
    assert not (tmp_path / "my.txt").exists()


def test_what_does_not_fit_is_said_beside_layers_that_do_not(check):
    wrong = SMALL.replace('input-x-gradient"]', 'gradcam:layer=zz"]')
    wrong = wrong.replace("[student]", '[student]\nlayers = ["zz:layer1"]')
    code, _, lines = check(wrong)
    assert code == 2
    assert len(lines) == 2
    assert "unknown layer of ScaledResNet18 'zz'" in lines[0]
    assert lines[1].startswith("error: explainer gradcam:layer=zz: ")


def test_a_student_that_cannot_be_trained_is_said(cli, tmp_path):
    (tmp_path / "frozen.py").write_text(
        "import torch\n\n\ndef frozen(num_classes, in_channels):\n"
        "    layer = torch.nn.Linear(784 * in_channels, num_classes)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), layer).requires_grad_(False)\n"
        "\n\ndef leaves(num_classes, in_channels):\n    raise SystemExit(3)\n"
    )
    path = tmp_path / "my.toml"
    for name, said in (("frozen", "call student.requires_grad_(True)"), ("leaves", "cannot be built")):
        path.write_text(SMALL.replace("resnet18-cifar:4-4-4-4@4", f"{tmp_path}/frozen.py:{name}") + "\n")
        called = cli("check", path, "--set", "student.layers=[]")
        assert called.code == 2
        assert said in called.error


def test_a_lack_of_memory_is_one_line(check, monkeypatch):
    from xaibench.run import inputs

    def greedy(*_args, **_options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 67 GB")

    monkeypatch.setattr(inputs, "load_assets", greedy)
    code, _, lines = check(SMALL)
    assert code == 2
    assert lines[-1].startswith("error: there is not enough memory (")
    assert lines[-1].endswith("give smaller images, batches or models")
