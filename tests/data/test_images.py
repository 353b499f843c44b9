import numpy as np
import pytest
import torch

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
        ({"images": PIXELS.float()}, "must be uint8 of shape"),
        ({"images": PIXELS[0]}, "must be uint8 of shape"),
        ({"images": PIXELS[:0], "labels": torch.zeros(0), "keys": ()}, "no images"),
        ({"labels": torch.tensor([0])}, "2 images but 1 labels"),
        ({"keys": ("x",)}, "and 1 keys"),
        ({"labels": torch.tensor([0, 2])}, "run from 0 to 2 but there are 2 classes"),
        ({"labels": torch.tensor([-1, 0])}, "run from -1"),
    ],
)
def test_bad_image_sets(changes, message):
    with pytest.raises(DataError, match=message):
        image_set(**changes)


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
