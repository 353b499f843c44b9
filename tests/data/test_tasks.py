import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import random_split

from xaibench.data.images import ImageSet
from xaibench.data.subtasks import Subtask
from xaibench.data.tasks import Task, load_task, mislabelled, split_train
from xaibench.errors import ConfigError, DataError, UnknownNameError


def image_set(counts):
    labels = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    n = len(labels)
    pixels = torch.randint(0, 256, (n, 1, 2, 2), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    return ImageSet(pixels, labels, tuple(f"c{i}" for i in range(len(counts))), tuple(map(str, range(n))), "made")


SHARES = st.floats(0.1, 0.9)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(30, 60), min_size=2, max_size=4), SHARES, st.floats(0.1, 0.6), st.integers(0, 2**31 - 1))
def test_splits_are_disjoint_stratified_and_seeded(counts, fraction, validation, seed):
    images = image_set(counts)
    options = {"fraction": fraction, "validation": validation, "seed": seed}
    train, held_out = split_train(images, **options)
    assert not set(train.keys) & set(held_out.keys)
    for label, n in enumerate(counts):
        held, kept = int((held_out.labels == label).sum()), int((train.labels == label).sum())
        assert abs(held - validation * n) <= 0.5
        assert abs(kept - fraction * (n - held)) <= 0.5
    for part in (train, held_out):
        for i, key in enumerate(part.keys):
            assert torch.equal(part.images[i], images.images[int(key)])
            assert part.labels[i] == images.labels[int(key)]
    again = split_train(images, **options)
    assert (again[0].keys, again[1].keys) == (train.keys, held_out.keys)


@settings(deadline=None, max_examples=20)
@given(SHARES, SHARES, st.integers(0, 1000))
def test_fractions_are_nested_and_share_one_validation_split(small, large, seed):
    small, large = sorted((small, large))
    images = image_set([30, 40])
    first, second = (split_train(images, fraction=f, seed=seed) for f in (small, large))
    assert set(first[0].keys) <= set(second[0].keys)
    assert first[1].keys == second[1].keys


@pytest.mark.parametrize(
    ("fraction", "counts"), [(1.0, (2001, 499)), (0.8, (2001, 499)), (0.1, (251, 499)), (0.01, (26, 499))]
)
def test_a_random_split_has_the_counts_of_subdistills_authors(fraction, counts):
    images = image_set([500] * 5)
    train, held_out = split_train(images, split="random", fraction=fraction, seed=1)
    assert (len(train), len(held_out)) == counts
    assert not set(train.keys) & set(held_out.keys)
    assert [split_train(images, split="random", fraction=fraction, seed=s)[0].keys == train.keys for s in (1, 2)] == [
        True,
        False,
    ]


@pytest.mark.filterwarnings("ignore:Length of split at index")  # random_split says so of an empty rest
@settings(deadline=None, max_examples=50)
@given(st.integers(8, 300), st.floats(0.01, 1), st.floats(0.01, 0.99), st.integers(0, 2**31 - 1))
def test_a_random_split_is_torchs(n, fraction, validation, seed):
    images, most = image_set([n - n // 3, n // 3]), 1 - validation
    shares = [min(most, fraction), 1 - most]
    shares.append(max(0.0, 1 - sum(shares)))
    assume(sum(shares) <= 1)  # else random_split takes them for counts
    parts = random_split(range(n), shares, torch.Generator().manual_seed(seed))
    options = {"split": "random", "fraction": fraction, "validation": validation, "seed": seed}
    if min(map(len, parts[:2])) < 1:
        with pytest.raises(DataError, match=f"{n} images are too few for a validation share of"):
            split_train(images, **options)
    else:
        for ours, torchs in zip(split_train(images, **options), parts):
            assert list(ours.keys) == [str(i) for i in sorted(torchs.indices)]


def test_the_default_split_is_the_one_that_it_was():
    train, held_out = split_train(image_set([6, 5]), seed=3)
    assert (train.keys, held_out.keys) == (("0", "2", "3", "4", "5", "6", "7", "9", "10"), ("1", "8"))
    assert split_train(image_set([6, 5]), split="stratified", seed=3)[0].keys == train.keys


def test_unknown_splits():
    with pytest.raises(UnknownNameError, match="unknown split 'stratify': did you mean 'stratified'"):
        split_train(image_set([6, 5]), split="stratify")


def test_everything_is_used_and_seeds_differ():
    images = image_set([30, 40])
    train, held_out = split_train(images)
    assert sorted((*train.keys, *held_out.keys), key=int) == list(images.keys)
    assert split_train(images, seed=1)[1].keys != held_out.keys


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan")])
def test_bad_fractions(fraction):
    with pytest.raises(ConfigError, match="fraction must be above 0 and at most 1, got"):
        split_train(image_set([10, 10]), fraction=fraction)


@pytest.mark.parametrize("validation", [0, 1, -1, float("nan")])
def test_bad_validation_shares(validation):
    with pytest.raises(ConfigError, match="validation must be above 0 and below 1, got"):
        split_train(image_set([10, 10]), validation=validation)


@pytest.mark.parametrize(("counts", "fraction"), [((10, 1), 1.0), ((10, 10), 0.01), ((10, 0), 1.0)])
def test_too_few_images(counts, fraction):
    with pytest.raises(DataError, match=r"class 'c[01]' has \d+ images, too few for a validation share of 0.2"):
        split_train(image_set(counts), fraction=fraction)


def test_a_task_from_its_names():
    task = load_task("fashion-mnist", "footwear", fraction=0.1, seed=3)
    assert (len(task.train), len(task.validation), len(task.test)) == (240, 600, 600)
    assert task.subtask.classes == task.train.classes == task.test.classes == ("Sandal", "Sneaker", "Ankle boot")
    assert repr(task) == ("Task(fashion-mnist, footwear: Sandal, Sneaker, Ankle boot; 240 + 600 + 600 images)")
    assert not {*task.train.keys, *task.validation.keys} & set(task.test.keys)


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="unknown subtask 'topps': did you mean 'tops'"):
        load_task("fashion-mnist", "topps")
    with pytest.raises(UnknownNameError, match="unknown dataset 'mnist': did you mean 'fashion-mnist'"):
        load_task("mnist", "tops")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({"seed": -1}, ["seed must be 0 to 2147483647, got -1"]),
        ({"seed": 2**31}, ["seed must be 0 to 2147483647, got 2147483648"]),
        ({"seed": 1.0}, ["load_task: seed must be a whole number, got 1.0"]),
        ({"seed": 2**43 * 10**9}, ["load_task: seed must be a whole number"]),
        ({"size": "big"}, ["load_task: size must be"]),
        ({"size": (10**8, 10**8)}, [r"size must be \(height, width\) in pixels, each 1 to 4096, got"]),
        ({"fraction": "x"}, ["load_task: fraction must be a number, got 'x'"]),
        ({"label_noise": 1}, ["label_noise must be at least 0 and below 1, got 1"]),
        ({"validation": float("nan")}, ["validation must be above 0 and below 1, got nan"]),
        (
            {"fraction": 2, "validation": 1, "seed": -1, "size": (0, 1)},
            ["size must be .*", "fraction must be .*", "validation must be .*", "seed must be"],
        ),
    ],
)
def test_all_bad_options_are_named_before_anything_is_read(options, messages):
    with pytest.raises(ConfigError, match="; ".join(messages)) as caught:
        load_task("imagefolder:/nowhere", **options)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), SHARES, SHARES, st.integers(0, 2**31 - 1))
def test_noise_gives_that_share_of_images_another_label_and_grows_with_it(counts, few, many, seed):
    few, many = sorted((few, many))
    images = image_set(counts)
    less, more = (mislabelled(images, share, seed) for share in (few, many))
    for noisy, share in ((less, few), (more, many)):
        assert int((noisy.labels != images.labels).sum()) == round(share * len(images))
        assert torch.equal(noisy.images, images.images)
        assert noisy.keys == images.keys
    changed = less.labels != images.labels
    assert torch.equal(less.labels[changed], more.labels[changed])
    assert torch.equal(mislabelled(images, few, seed).labels, less.labels)


def test_wrong_labels_are_spread_evenly_over_the_other_classes():
    images = image_set([3000, 3000, 3000, 3000])
    noisy = mislabelled(images, 0.5)
    counts = torch.zeros(4, 4).index_put_((images.labels, noisy.labels), torch.ones(12000), accumulate=True)
    off = counts[~torch.eye(4, dtype=torch.bool)]  # 500 expected in each; the SD of one is 21
    assert off.sum() == 6000
    assert ((off - 500).abs() < 5 * 21).all()


def test_only_training_images_are_mislabelled():
    clean, noisy = (load_task("fashion-mnist", "tops", fraction=0.1, label_noise=share) for share in (0, 0.4))
    assert clean.train.keys == noisy.train.keys
    assert int((clean.train.labels != noisy.train.labels).sum()) == round(0.4 * len(clean.train))
    assert clean.train.content_hash() != noisy.train.content_hash()
    for split in ("validation", "test"):
        assert getattr(clean, split).content_hash() == getattr(noisy, split).content_hash()


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_bad_noise(share):
    with pytest.raises(ConfigError, match="label_noise must be at least 0 and below 1, got"):
        mislabelled(image_set([3, 3]), share)


def test_images_that_occur_in_two_splits_are_warned_about(make_folder, caplog):
    root = make_folder(per_class=6)
    load_task(f"imagefolder:{root}")
    assert not caplog.records
    (root / "train" / "ant" / "7.png").write_bytes((root / "test" / "bee" / "0.png").read_bytes())
    load_task(f"imagefolder:{root}")
    (record,) = caplog.records
    assert "1 images of imagefolder:" in record.getMessage()
    assert "test/bee/0.png (test) are equal" in record.getMessage()
    assert "train/ant/7.png" in record.getMessage()


def test_the_three_parts_of_a_task_have_one_shape_and_the_classes_of_the_subtask():
    images = image_set([3, 3])
    task = Task(images, images, images, Subtask("made", ("c0", "c1")), "made")
    assert task.subtask.classes == images.classes
    turned = ImageSet(images.images, images.labels, ("c1", "c0"), images.keys)
    with pytest.raises(
        DataError, match=r"the test images have classes \('c1', 'c0'\), but those of the task are \('c0'"
    ):
        Task(images, images, turned, task.subtask, "made")
    large = ImageSet(torch.zeros(6, 1, 4, 4, dtype=torch.uint8), images.labels, images.classes, images.keys)
    with pytest.raises(
        DataError, match=r"the validation images have shape \(1, 4, 4\), but the training images \(1, 2"
    ):
        Task(images, large, images, task.subtask, "made")
    with pytest.raises(DataError, match=r"Task\.train must be an ImageSet, got None"):
        Task(None, images, images, task.subtask, "made")
