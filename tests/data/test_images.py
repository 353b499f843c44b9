import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.data.images import ImageSet, Preprocessing, chosen_rows
from xaibench.errors import DataError

PIXELS = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)


def image_set(**changes):
    parts = {"images": PIXELS, "labels": torch.tensor([1, 0]), "classes": ("a", "b"), "keys": ("x", "y")}
    return ImageSet(**(parts | changes))


def test_take_keeps_images_labels_and_keys_together():
    taken = image_set().take([1])
    assert torch.equal(taken.images, PIXELS[1:])
    assert (taken.labels.tolist(), taken.keys, taken.classes) == ([0], ("y",), ("a", "b"))
    assert taken.shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("indices", "rows"),
    [
        ([2, 0, 2], [2, 0, 2]),
        ([-1, 0], [3, 0]),
        ([], []),
        (range(1, 3), [1, 2]),
        ([True, False, False, True], [0, 3]),
        (torch.tensor([False, True, False, False]), [1]),
        (np.array([False, False, True, False]), [2]),
        (np.array([3, -4], dtype=np.int16), [3, 0]),
        (torch.zeros(4, dtype=torch.bool), []),
    ],
)
def test_rows_are_chosen_by_number_from_the_end_or_by_a_mask(indices, rows):
    chosen = chosen_rows(indices, 4)
    assert chosen.tolist() == rows
    assert chosen.dtype == torch.int64


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 4], r"index 4 is not among the 4 images: use 0\.\.3"),
        ([-5], "index -5 is not among the 4 images"),
        ([True, False], "a mask of 2 does not fit 4 images: give one True or False an image"),
        ([0.0, 1.0], r"indices must be a list of whole numbers or a mask, got torch.float32 \(2,\)"),
        (1, r"got torch.int64 \(\)"),
        ([[0, 1]], r"got torch.int64 \(1, 2\)"),
        (["a"], r"indices must be whole numbers or a mask, got \['a'\]"),
        (None, "got None"),
    ],
)
def test_rows_that_are_not_there(indices, message):
    with pytest.raises(DataError, match=message) as caught:
        chosen_rows(indices, 4)
    assert "\n" not in str(caught.value)


def test_take_by_a_mask_and_from_the_end():
    for indices in (torch.tensor([False, True]), [-1], [1]):
        assert image_set().take(indices).keys == ("y",)


@pytest.mark.parametrize(
    "changes",
    [{"images": PIXELS.flip(0)}, {"labels": torch.tensor([0, 0])}, {"classes": ("a", "c")}],
)
def test_the_hash_sees_pixels_labels_and_names(changes):
    assert image_set().content_hash() == image_set(keys=("p", "q")).content_hash()
    assert image_set(**changes).content_hash() != image_set().content_hash()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": PIXELS.float()}, "must be a uint8 tensor"),
        ({"images": PIXELS[0]}, "must be a uint8 tensor"),
        ({"images": PIXELS[:0], "labels": torch.zeros(0), "keys": ()}, "no images"),
        ({"labels": torch.tensor([0])}, "2 images but 1 labels"),
        ({"keys": ("x",)}, "and 1 keys"),
        ({"labels": torch.tensor([0, 2])}, "run from 0 to 2 but there are 2 classes"),
        ({"labels": torch.tensor([-1, 0])}, "run from -1"),
        ({"images": PIXELS.numpy()}, r"must be a uint8 tensor \(N, C, H, W\) with values 0..255, got ndarray"),
        ({"images": PIXELS[:, :0]}, "no images"),
        ({"labels": [0.7, 0.7]}, r"labels must be whole numbers, one an image, got torch.float32 \(2,\)"),
        ({"labels": torch.tensor([True, False])}, "labels must be whole numbers, one an image, got torch.bool"),
        ({"labels": torch.tensor([[1, 0]])}, r"labels must be whole numbers, one an image, got torch.int64 \(1, 2\)"),
        ({"labels": ["a", "b"]}, r"labels must be whole numbers, one an image, got \['a', 'b'\]"),
        ({"labels": None}, "labels must be whole numbers, one an image, got None"),
        ({"keys": ("x", "x")}, "keys of an image set must differ, got 'x' twice: rename one"),
        ({"keys": (1, 2)}, r"keys of an image set must be Sequence\[str\], got \(1, 2\)"),
        ({"classes": ("a", "a")}, "classes of an image set must differ, got 'a' twice"),
        ({"classes": "ab"}, r"classes of an image set must be Sequence\[str\], got 'ab'"),
    ],
)
def test_bad_image_sets(changes, message):
    with pytest.raises(DataError, match=message) as caught:
        image_set(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "labels", [[1, 0], np.array([1, 0], np.uint8), torch.tensor([1, 0], dtype=torch.int32), torch.tensor([1, 0])]
)
def test_labels_of_any_whole_type_are_one_set(labels):
    images = image_set(labels=labels, keys=["x", "y"], classes=["a", "b"])
    assert images.labels.dtype == torch.int64
    assert (images.keys, images.classes) == (("x", "y"), ("a", "b"))
    assert images.content_hash() == image_set().content_hash()


def labelled(counts, order=0):
    """Images of one pixel, `counts` of each class, shuffled."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    n = len(labels)
    labels = labels[torch.randperm(n, generator=torch.Generator().manual_seed(order))]
    pixels = torch.arange(n).to(torch.uint8).view(n, 1, 1, 1)
    return ImageSet(pixels, labels, tuple(f"c{i}" for i in range(len(counts))), tuple(map(str, range(n))))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.integers(1, 80), st.integers(0, 2**31 - 1))
def test_a_sample_is_as_even_as_the_classes_allow(counts, count, seed):
    images = labelled(counts)
    sample = images.sample(count, seed)
    assert len(sample) == min(count, len(images))
    assert len(set(sample.keys)) == len(sample)
    assert sample.labels.tolist() == sorted(sample.labels.tolist())
    assert all(images.labels[int(key)] == label for key, label in zip(sample.keys, sample.labels))
    shares = sample.labels.bincount(minlength=len(counts)).tolist()
    for share, have in zip(shares, counts):
        assert share == have or share >= max(shares) - 1
    assert images.sample(count, seed).keys == sample.keys


@pytest.mark.parametrize(("count", "seed"), [(3, 0), (7, 1), (12, 5), (30, 2)])
def test_a_sample_of_large_classes_has_equal_shares_and_the_rest_to_the_first(count, seed):
    """The draw that run folders of earlier versions hold."""
    images = labelled([11, 12, 10])
    generator = torch.Generator().manual_seed(seed)
    wanted = []
    for label in range(3):
        members = (images.labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        wanted += sorted(members[order[: count // 3 + (label < count % 3)]].tolist())
    assert images.sample(count, seed).keys == tuple(map(str, wanted))


def test_a_sample_smaller_than_the_classes_draws_them():
    images = labelled([3] * 8)
    met = {label for seed in range(40) for label in images.sample(2, seed).labels.tolist()}
    assert met == set(range(8))


@pytest.mark.parametrize("arguments", [(0,), (-3,), (2.0,), (True,), ("2",), (None,), (2, "x"), (2, 0.5)])
def test_a_sample_of_no_number(arguments):
    with pytest.raises(DataError, match=r"must be (at least 1|a whole number), got"):
        image_set().sample(*arguments)


def test_preprocessing_to_the_formula_and_back():
    prep = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.5), (4, 4))
    x = prep(PIXELS)
    for c in range(3):
        wanted = (PIXELS[:, c].double() / 255 - prep.mean[c]) / prep.std[c]
        torch.testing.assert_close(x[:, c].double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prep.invert(x), PIXELS / 255, rtol=1e-5, atol=1e-6)
    low, high = prep.bounds()
    torch.testing.assert_close(low.flatten(), torch.tensor([-2.5, -1.6, -0.6]))
    torch.testing.assert_close(high.flatten(), torch.tensor([2.5, 2.4, 1.4]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PIXELS.float(), "wants uint8"),
        (PIXELS[:, :1], "images have 1 channels but the model takes 3"),
        (PIXELS[..., :2], "images are 4x2 but the model takes 4x4"),
    ],
)
def test_preprocessing_refuses(images, message):
    with pytest.raises(DataError, match=message):
        Preprocessing((0.5,) * 3, (0.5,) * 3, (4, 4))(images)


@pytest.mark.parametrize("std", [(0.5, 0.0), (0.5,), (0.5, -1.0)])
def test_bad_mean_and_std(std):
    with pytest.raises(DataError, match="one mean and one positive std a channel"):
        Preprocessing((0.5, 0.5), std)


def test_the_mean_of_bytes_is_refused():
    with pytest.raises(DataError, match=r"is that of bytes 0\.\.255, .*: divide mean and std by 255"):
        Preprocessing((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))
    assert Preprocessing((0.0, 1.0), (1 / 255, 1.0)).mean == (0.0, 1.0)


@pytest.mark.parametrize(
    "bad", ["x", (), None, 0.5, ("a", "b"), (0.5, float("nan")), (float("inf"), 0.5), [[0.5], 0.5]]
)
@pytest.mark.parametrize("name", ["mean", "std"])
def test_mean_and_std_are_finite_numbers(name, bad):
    with pytest.raises(
        DataError, match=rf"{name} of a preprocessing must be (one finite number a channel|Sequence\[float\]), "
    ):
        Preprocessing(**({"mean": (0.5, 0.5), "std": (0.5, 0.5)} | {name: bad}))


@pytest.mark.parametrize("size", [(0, 28), (28,), (10**8, 10**8), (28, -1), 28, "ab", (28.0, 28), (True, 5)])
def test_sizes_that_no_image_has(size):
    with pytest.raises(
        DataError, match=r"size must be (\(height, width\) in pixels, each 1 to 4096|Sequence\[int\]), got"
    ):
        Preprocessing((0.5,), (0.5,), size)


def test_lists_and_tuples_of_numbers_are_the_same_preprocessing():
    assert Preprocessing([0, 0.5], [1, np.float64(0.5)], [4, 4]) == Preprocessing((0.0, 0.5), (1.0, 0.5), (4, 4))
    assert hash(Preprocessing([0.5], [0.5])) == hash(Preprocessing((0.5,), (0.5,)))


def test_the_default_type_of_the_process_changes_nothing():
    prep = Preprocessing((0.1, 0.2, 0.3), (0.7, 0.8, 0.9))
    x, bounds = prep(PIXELS), prep.bounds()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(prep(PIXELS), x)
        assert all(torch.equal(own, other) and own.dtype == other.dtype for own, other in zip(prep.bounds(), bounds))
    finally:
        torch.set_default_dtype(torch.float32)
