"""imagefolder:PATH, on folders drawn from a seed."""

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xaibench.data.datasets import dataset_classes, load_dataset
from xaibench.data.folders import resized
from xaibench.data.tasks import load_task
from xaibench.errors import DataError, UnknownNameError


def draw(seed, shape=(8, 8, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


CIFAR40 = Path(__file__).parents[3] / "shared" / "data" / "cifar100-40"


def load(root, split="train", **options):
    return load_dataset(f"imagefolder:{root}", split, **options)


def test_pixels_labels_and_keys(make_folder):
    root = make_folder(("bee", "ant"))
    images = load(root)
    assert images.classes == ("ant", "bee")
    assert images.keys == tuple(f"train/{c}/{i}.png" for c in ("ant", "bee") for i in range(3))
    for key, pixels, label in zip(images.keys, images.images, images.labels.tolist()):
        np.testing.assert_array_equal(pixels.numpy(), np.asarray(Image.open(root / key)).transpose(2, 0, 1))
        assert f"/{images.classes[label]}/" in key


def test_only_the_chosen_classes_are_read(make_folder):
    root = make_folder(("ant", "bee", "fly"))
    (root / "train" / "bee" / "0.png").write_bytes(b"broken")
    assert load(root, classes=["fly", "ant"]).classes == ("fly", "ant")
    with pytest.raises(DataError, match=r"cannot read image .*bee/0.png \(UnidentifiedImageError\): replace or delete"):
        load(root)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:60] + b"\0" * 60 + b[120:]])
def test_damaged_files(make_folder, damage):
    path = make_folder() / "train" / "bee" / "1.png"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"cannot read image {re.escape(str(path))}") as caught:
        load(path.parents[2])
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged metadata
@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["png", "jpg", "bmp", "tif", "webp"]), st.randoms(use_true_random=False), st.booleans())
def test_any_damage_is_a_picture_or_a_data_error(tmp_path_factory, suffix, random, cut):
    path = tmp_path_factory.mktemp("damage") / "train" / "ant" / f"a.{suffix}"
    path.parent.mkdir(parents=True)
    Image.fromarray(draw(0)).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(random.randrange(6)):
        content[random.randrange(len(content))] = random.randrange(256)
    path.write_bytes(content[: random.randrange(len(content)) if cut else None])
    with contextlib.suppress(DataError):
        assert load(path.parents[2], size=(8, 8)).shape == (3, 8, 8)


def test_modes(make_folder):
    """Grey is repeated, alpha dropped, palettes looked up."""
    folder = make_folder(per_class=0) / "train"
    colour, grey = draw(1), draw(2, (8, 8))
    Image.fromarray(colour).save(folder / "ant" / "colour.png")
    Image.fromarray(grey).save(folder / "ant" / "grey.png")
    Image.fromarray(np.dstack([colour, grey])).save(folder / "ant" / "rgba.png")
    Image.fromarray(grey > 127).save(folder / "bee" / "bits.png")
    palette = Image.fromarray(grey % 16, mode=None).convert("P")
    palette.putpalette(draw(3, (256, 3)).tobytes())
    palette.save(folder / "bee" / "palette.png", transparency=bytes(range(256)))
    images = load(folder.parent)
    found = dict(zip(images.keys, images.images.numpy()))
    np.testing.assert_array_equal(found["train/ant/colour.png"], colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(found["train/ant/rgba.png"], colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(found["train/ant/grey.png"], grey[None].repeat(3, 0))
    np.testing.assert_array_equal(found["train/bee/bits.png"], (grey > 127)[None].repeat(3, 0) * np.uint8(255))
    wanted = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(found["train/bee/palette.png"], wanted)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_more_than_8_bits(make_folder, dtype):
    root = make_folder()
    Image.fromarray(draw(0, (8, 8)).astype(dtype) * 100).save(root / "train" / "ant" / "deep.tif")
    with pytest.raises(DataError, match=r"deep.tif has more than 8 bits a channel \(mode I"):
        load(root)


def test_sizes_that_differ(make_folder):
    root = make_folder()
    Image.fromarray(draw(0, (10, 6, 3))).save(root / "train" / "bee" / "9.png")
    message = r"bee/9.png is 10x6 \(height x width\) but .*ant/0.png is 8x8: give size, as in size = \[224, 224\]"
    with pytest.raises(DataError, match=message):
        load(root)
    assert load(root, size=(5, 4)).shape == (3, 5, 4)


@pytest.mark.parametrize("shape", [(8, 8), (16, 8), (5, 23), (1, 40)])
@pytest.mark.parametrize("size", [(8, 8), (4, 12), (3, 1)])
def test_resized_keeps_a_constant_and_the_centre(shape, size):
    flat = torch.full((1, 3, *shape), 77, dtype=torch.uint8)
    assert torch.equal(resized(flat, size), torch.full((1, 3, *size), 77, dtype=torch.uint8))
    ramp = torch.linspace(0, 200, shape[1]).round().to(torch.uint8).expand(1, 1, *shape).contiguous()
    centre = resized(ramp, size).float().mean()
    assert abs(float(centre) - 100) < 200 / min(shape[1], 2 * size[1]) + 5


def test_folders_that_are_not_there(make_folder, tmp_path):
    with pytest.raises(DataError, match=r"no image folder at .*nowhere: give imagefolder:PATH"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no folder 'train': arrange it as"):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="has no class folders"):
        load(tmp_path)
    root = make_folder()
    (root / "train" / "cow").mkdir()
    with pytest.raises(DataError, match="train/cow holds no images"):
        load(root)
    with pytest.raises(DataError, match="test has no folder for class 'cow'"):
        load(root, "test")


def test_val_serves_as_test_and_other_files_do_not_count(make_folder):
    root = make_folder()
    (root / "test").rename(root / "val")
    for name in (".hidden.png", "notes.txt"):
        (root / "val" / "ant" / name).write_bytes(b"no picture")
    (root / "val" / ".cache").mkdir()
    assert load(root, "test").keys[0] == "val/ant/0.png"
    assert len(load(root, "test")) == 6


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "__MACOSX", "more/.cache"])
def test_copies_in_hidden_folders_do_not_count(make_folder, hidden):
    root = make_folder()
    for below in (Path("train", "ant", hidden), Path("train", hidden, "ant")):
        (root / below).mkdir(parents=True)
        (root / below / "0-checkpoint.png").write_bytes((root / "train" / "ant" / "0.png").read_bytes())
    (root / "train" / "ant" / "Thumbs.db").write_bytes(b"no picture")
    (root / "train" / "ant" / "._0.png").write_bytes(b"no picture")
    if hidden.startswith("more"):  # a folder of that name is a class of its own, which holds no image
        assert dataset_classes(f"imagefolder:{root}") == ("ant", "bee", "more")
    assert load(root, classes=("ant", "bee")).keys == tuple(
        f"train/{c}/{i}.png" for c in ("ant", "bee") for i in range(3)
    )


def test_images_in_a_hidden_place_are_found(make_folder):
    """Only what is hidden below the class folder is skipped."""
    root = make_folder()
    hidden = root.parent / ".data"
    root.rename(hidden)
    assert len(load(hidden)) == 6


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_orientation_says(make_folder, suffix, orientation):
    root = make_folder(per_class=0)
    stored = np.zeros((8, 8, 3), np.uint8)
    stored[:4, :4], stored[:4, 4:], stored[4:, :4] = 255, 128, 64
    shown = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("ant", "bee"):
        Image.fromarray(stored).save(root / "train" / name / f"a.{suffix}", exif=exif, quality=95)
    Image.fromarray(draw(0)).save(root / "train" / "ant" / "b.png")
    found = load(root).images[0].numpy().transpose(1, 2, 0).astype(int)
    assert np.abs(found - shown).max() < 12


def test_a_relative_path_lies_in_root(make_folder):
    root = make_folder()
    assert dataset_classes("imagefolder:images", root.parent) == ("ant", "bee")
    found = load_dataset("imagefolder:images", "test", root=root.parent)
    assert torch.equal(found.images, load(root, "test").images)


def test_wordnet_folders_become_class_names(make_folder):
    wnids = ("n02099267", "n02099429", "n02099601", "n02099712", "n02099849", "n01440764")
    root = make_folder(wnids)
    task = load_task(f"imagefolder:{root}", "retriever", validation=0.34)
    assert task.subtask.classes[2] == "golden retriever"
    assert "test/n02099601/0.png" in task.test.keys
    assert dataset_classes(f"imagefolder:{root}")[0] == "n01440764"
    (root / "train" / "golden retriever").mkdir()
    with pytest.raises(DataError, match="are both class 'golden retriever': merge them"):
        load(root)


def test_blank_and_identical_images(make_folder):
    root = make_folder()
    for path in root.rglob("*.png"):
        Image.fromarray(draw(5)).save(path)
    with pytest.raises(DataError, match=r"all 6 images of .* are the same"):
        load(root)
    for i, path in enumerate(root.rglob("*.png")):
        Image.new("RGB", (8, 8), (i, i, i)).save(path)
    with pytest.raises(DataError, match=r"every image of .* is blank"):
        load(root)


def test_one_blank_image_among_others_is_fine(make_folder):
    root = make_folder()
    Image.new("RGB", (8, 8)).save(root / "train" / "ant" / "0.png")
    assert len(load(root)) == 6


@pytest.mark.skipif(not CIFAR40.is_dir(), reason=f"needs the 40 CIFAR-100 classes in {CIFAR40}")
def test_cifar_superclasses_work_on_a_folder_that_has_their_classes():
    people = load_dataset(f"imagefolder:{CIFAR40}", "test", classes=("baby", "boy", "girl", "man", "woman"))
    assert people.images.shape == (500, 3, 32, 32)
    assert people.labels.bincount().tolist() == [100] * 5
    with pytest.raises(DataError, match="subtask 'fish' needs class 'aquarium_fish'"):
        load_task(f"imagefolder:{CIFAR40}", "fish")
    with pytest.raises(UnknownNameError, match="did you mean 'trees'"):
        load_task(f"imagefolder:{CIFAR40}", "tres")
