"""Whatever is wrong with the input: one line with the remedy, exit code 2, and nothing written or lost."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from xaibench.data.datasets import embedded
from xaibench.data.images import Preprocessing
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import ModelCard, load_checkpoint, save_checkpoint

FASHION = ("Sandal", "Sneaker", "Ankle boot")


def write_images(folder, classes=("a", "b"), side=12, count=6, seed=0):
    """PNG files of noise under FOLDER/{train,test}/CLASS."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture
def refused(cli, small_settings, tmp_path):
    """refused(settings...) -> the error of `xaibench run`, which left nothing behind."""

    def run(*settings, accelerator=()):
        out = tmp_path / "out"
        options = [part for setting in settings for part in ("--set", setting)]
        called = cli("run", "--preset", "demo", "--out", out, *small_settings, *options, *accelerator)
        assert called.code == 2, called
        assert called.out == ""
        assert not out.exists()
        assert len(called.error) > 40
        return called.error

    return run


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.dataset=fashon-mnist", "unknown dataset 'fashon-mnist': did you mean 'fashion-mnist'"),
        ("data.dataset=torchvision:CIFAR1O", "did you mean 'CIFAR10'"),
        ("data.subtask=footware", "unknown subtask 'footware': did you mean 'footwear'"),
        ("data.subtask=people", "subtask 'people' needs class"),
        ("data.subtask=['Coat', 'Shrit']", "unknown class 'Shrit': did you mean 'Shirt'"),
        ("data.subtask=['Coat']", "a classifier needs at least 2"),
        ("data.subtask=['Coat', 'Coat']", "names class 'Coat' twice"),
        ("data.fraction=2", "data.fraction must be at most 1, got 2"),
        ("data.fraction=1e-5", "too few"),
        ("data.validation=1.0", "data.validation must be below 1, got 1.0"),
        ("data.dataset=imagefolder:/no/where", "no image folder at /no/where"),
        ("student.architecture=resnet18-cifra", "did you mean 'resnet18-cifar'"),
        ("student.architecture=resnet18-cifar:4-4-4", "must be 4 positive integers"),
        ("student.architecture=vgg11", "takes 3 input channels, not 1"),
        ("student.layers=['layer5:layer1']", "'layer5': did you mean 'layer"),
        ("student.layers=['layer1:layr1']", "'layr1': did you mean 'layer1"),
        ("student.layers=['fc:fc']", "maps (C, H, W) are needed: pair layers that give maps or tokens"),
        ("methods=['subdistil']", "unknown method 'subdistil': did you mean 'subdistill'"),
        ("explain.explainers=['lrpp']", "unknown explainer 'lrpp': did you mean 'lrp'"),
        ("explain.explainers=['lrp:gama=1']", "did you mean 'gamma'"),
        ("similarity.metrics=['cosine', 'spearmann']", "did you mean 'spearman'"),
        ("similarity.grid=29", "grid 29 does not fit 28x28 heatmaps: choose 1 to 28"),
        ("train.epoch=3", "did you mean 'epochs'"),
        ("teacher.checkpoint=/no/teacher.safetensors", "no checkpoint at /no/teacher.safetensors"),
        ("teacher.checkpoint=embedded:none", "the embedded file 'none' is missing"),
        ("teacher.architecture=resnet18", "holds resnet18-cifar:16-32-64-128@16, not resnet18"),
        ("teacher.classes=fashion-minst", "unknown class list 'fashion-minst': did you mean 'fashion-mnist'"),
        ("teacher.classes=['a', 'b']", "was trained on 10 classes"),
    ],
)
def test_a_wrong_setting(refused, setting, message):
    assert message in refused(setting)


def test_a_dataset_without_its_folder(refused, tmp_path):
    assert "needs root=FOLDER" in refused("data.dataset=cifar100", "data.subtask=people")
    error = refused("data.dataset=cifar100", "data.subtask=people", f"data.root={tmp_path}")
    assert "check root, or set download = true" in error


def test_more_student_than_teacher_channels_is_refused_before_training(refused):
    wide = ("student.architecture=resnet18-cifar:4-48-4-4@4", "student.layers=['layer2']")
    error = refused(*wide, "methods=['student-only', 'subdistill']")
    assert "a subspace of 48 dimensions does not fit into 32 teacher channels" in error


@pytest.mark.parametrize("accelerator", [("--accelerator", "tpuu"), ("--accelerator", "mps")])
def test_an_accelerator_that_is_not_there(refused, accelerator):
    assert "choose cpu, cuda" in refused(accelerator=accelerator)


def test_a_corrupt_checkpoint(refused, tmp_path):
    whole = embedded("fashion-mnist/teacher.safetensors").read_bytes()
    for name, content in (("cut.safetensors", whole[:5000]), ("text.pt", b"hello"), ("empty.safetensors", b"")):
        (tmp_path / name).write_bytes(content)
        assert str(tmp_path / name) in refused(f"teacher.checkpoint={tmp_path / name}")


def test_a_checkpoint_that_could_run_code(refused, tmp_path):
    torch.save(build_model("resnet18-cifar:4-4-4-4@4", 10, 1), tmp_path / "whole.pt")
    error = refused(f"teacher.checkpoint={tmp_path / 'whole.pt'}", "teacher.classes=fashion-mnist")
    assert "it could run code: save model.state_dict()" in error


def test_a_wrong_class_count_or_architecture_names_the_first_difference(refused, tmp_path):
    path = tmp_path / "five.pt"
    torch.save(build_model("resnet18-cifar:4-4-4-4@4", 5, 1).state_dict(), path)
    given = [f"teacher.checkpoint={path}", "teacher.classes=fashion-mnist"]
    assert "does not say what model it holds: give the architecture" in refused(*given)
    error = refused(*given, "teacher.architecture=resnet18-cifar:4-4-4-4@4")
    assert "fc.weight is (5, 4) in the file, (10, 4) in the model" in error
    error = refused(*given, "teacher.architecture=resnet18-cifar:4-4-8-8@4")
    assert "layer3.0.conv1.weight is (4, 4, 3, 3) in the file, (8, 4, 3, 3) in the model" in error


def test_nan_weights(refused, tmp_path):
    model, card = load_checkpoint(embedded("fashion-mnist/teacher.safetensors"))
    with torch.no_grad():
        model.layer2[0].conv1.weight[0, 0, 0, 0] = float("nan")
    path = save_checkpoint(tmp_path / "nan.safetensors", model, card)
    assert "has NaN or infinite values in layer2.0.conv1.weight" in refused(f"teacher.checkpoint={path}")


def test_images_of_the_wrong_size(refused, tmp_path):
    model, card = load_checkpoint(embedded("fashion-mnist/teacher.safetensors"))
    other = Preprocessing(card.preprocessing.mean, card.preprocessing.std, (32, 32))
    path = save_checkpoint(tmp_path / "t.safetensors", model, ModelCard(card.architecture, card.classes, other))
    error = refused(f"teacher.checkpoint={path}")
    assert "images are 28x28 but the model takes 32x32: load the data with that size" in error


def test_images_with_the_wrong_channels(refused, tmp_path):
    folder = write_images(tmp_path / "images", FASHION)
    error = refused(f"data.dataset=imagefolder:{folder}", "data.subtask=all", "data.fraction=1")
    assert "images have 3 channels but the model takes 1" in error


def test_classes_that_the_teacher_does_not_know(refused, tmp_path):
    folder = write_images(tmp_path / "images", ("Sandals", "Sneaker"))
    pre = Preprocessing((0.5,) * 3, (0.2,) * 3)
    card = ModelCard("resnet18-cifar:4-4-4-4@4", FASHION, pre)
    teacher = save_checkpoint(tmp_path / "t.safetensors", build_model(card.architecture, 3), card)
    given = [f"teacher.checkpoint={teacher}", f"data.dataset=imagefolder:{folder}", "data.subtask=all"]
    assert "unknown class of the teacher 'Sandals': did you mean 'Sandal'" in refused(*given, "data.fraction=1")


@pytest.mark.parametrize("damage", ["corrupt", "other size", "blank", "empty class", "missing split"])
def test_a_damaged_image_folder(refused, tmp_path, damage):
    folder = write_images(tmp_path / "images")
    if damage == "corrupt":
        (folder / "train/a/3.png").write_bytes((folder / "train/a/3.png").read_bytes()[:60])
        message = "a/3.png"
    elif damage == "other size":
        Image.new("RGB", (20, 12)).save(folder / "train/b/2.png")
        message = "give size, as in size = [224, 224]"
    elif damage == "blank":
        for path in folder.rglob("*.png"):
            Image.new("RGB", (12, 12), (7, 7, 7)).save(path)
        message = "is blank (one value throughout)"
    elif damage == "empty class":
        for path in (folder / "test/b").iterdir():
            path.unlink()
        message = "holds no images"
    else:
        shutil.rmtree(folder / "test")
        message = "has no folder 'test'"
    assert message in refused(f"data.dataset=imagefolder:{folder}", "data.subtask=all", "data.fraction=1")


def test_a_folder_with_other_things_in_it(cli, small_settings, tmp_path, contents):
    (tmp_path / "thesis.tex").write_text("years of work")
    before = contents(tmp_path)
    called = cli("run", "--preset", "demo", "--out", tmp_path, *small_settings)
    assert called.code == 2
    assert "is not empty and holds no run: choose another folder" in called.error
    called = cli("run", "--preset", "demo", "--out", tmp_path / "thesis.tex", *small_settings)
    assert "is a file: choose another run folder" in called.error
    called = cli("run", "--preset", "demo", "--out", tmp_path / "thesis.tex" / "run", *small_settings)
    assert called.code == 2
    assert "thesis.tex" in called.error
    assert contents(tmp_path) == before


def test_a_run_of_another_configuration(tiny_run, cli, contents):
    before = contents(tiny_run)
    called = cli("run", "--preset", "demo", "--out", tiny_run, "--set", "seeds=[0]")
    assert called.code == 2
    assert "holds a run with another configuration (data.fraction was 0.2, now 1.0)" in called.error
    assert contents(tiny_run) == before
