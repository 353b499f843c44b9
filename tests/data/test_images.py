import pytest
import torch

from xaibench.data.images import ImageSet, Preprocessing
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
