import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.data.augment import augment
from xaibench.errors import DataError


def images_of(n, c=3, h=9, w=7, seed=0):
    return torch.randint(1, 256, (n, c, h, w), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def all_crops(image, padding, flip):
    """Every result that RandomCrop with zero padding and a mirror can give, by slow slicing."""
    c, h, w = image.shape
    padded = np.zeros((c, h + 2 * padding, w + 2 * padding), np.uint8)
    padded[:, padding : padding + h, padding : padding + w] = image.numpy()
    crops = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[:, top : top + h, left : left + w]
            crops[crop.tobytes()] = (top, left, 0)
            if flip:
                crops[crop[:, :, ::-1].tobytes()] = (top, left, 1)
    return crops


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6), st.integers(0, 4), st.booleans(), st.sampled_from([1, 3]))
def test_every_result_is_a_crop_of_the_padded_image(seed, epoch, padding, flip, channels):
    images = images_of(6, channels)
    result = augment(images, torch.arange(6), seed=seed, epoch=epoch, padding=padding, flip=flip)
    assert result.dtype == torch.uint8
    assert result.is_contiguous()
    for image, new in zip(images, result):
        assert new.numpy().tobytes() in all_crops(image, padding, flip)


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(10)), st.integers(1, 10), st.integers(0, 2**40), st.integers(0, 500))
def test_an_image_does_not_depend_on_its_batch(order, size, seed, epoch):
    images = images_of(10)
    whole = augment(images, torch.arange(10), seed=seed, epoch=epoch)
    part = torch.tensor(order[:size])
    torch.testing.assert_close(augment(images[part], part, seed=seed, epoch=epoch), whole[part], rtol=0, atol=0)


def choices(n, seed=0, epoch=0, padding=2):
    """(n, 3): top, left and mirror that each of n copies of one image got."""
    image = images_of(1, c=1, h=6, w=6)
    result = augment(image.expand(n, 1, 6, 6), torch.arange(n), seed=seed, epoch=epoch, padding=padding)
    crops = all_crops(image[0], padding, flip=True)
    assert len(crops) == 2 * (2 * padding + 1) ** 2
    return np.array([crops[new.numpy().tobytes()] for new in result])


def test_crops_and_mirrors_are_uniform_and_independent():
    n = 20_000
    cells = np.ravel_multi_index(choices(n).T, (5, 5, 2))
    counts = np.bincount(cells, minlength=50)
    chi2 = ((counts - n / 50) ** 2 / (n / 50)).sum()
    assert 20 < chi2 < 95  # 49 degrees of freedom: 99.99% lie below 95; far below 20 would be too even


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"seed": 2**32}])
def test_seed_and_epoch_give_independent_choices(other):
    n = 5_000
    first, second = choices(n), choices(n, **other)
    same = (first == second).mean(0)
    np.testing.assert_allclose(same, [1 / 5, 1 / 5, 1 / 2], atol=0.03)


def test_seed_and_epoch_are_not_interchangeable():
    assert (choices(500, seed=3, epoch=5) != choices(500, seed=5, epoch=3)).any(1).mean() > 0.9


def test_neighbours_are_uncorrelated():
    chosen = choices(5_000).astype(float)
    for column in chosen.T:
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 0.06


def mix(z):
    """SplitMix64's finaliser on Python's integers."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_slow_twin():
    """The choices, one image at a time; resumed runs rely on their never changing."""
    seed, epoch, golden = 7, 3, 0x9E3779B97F4A7C15
    state = mix((mix(seed + golden) + epoch + golden) % 2**64)
    wanted = []
    for index in range(50):
        own = mix((state + index * golden) % 2**64)
        top, left, mirror = (mix((own + k * 0xD1B54A32D192ED03) % 2**64) for k in (1, 2, 3))
        wanted.append([top % 5, left % 5, mirror >> 63])
    assert choices(50, seed=seed, epoch=epoch).tolist() == wanted


def test_the_images_given_are_left_alone():
    images = images_of(4)
    before = images.clone()
    plain = augment(images, torch.arange(4), seed=0, epoch=0, padding=0, flip=False)
    assert torch.equal(plain, images)
    plain.zero_()
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("images", "indices", "padding", "message"),
    [
        (images_of(3).float(), torch.arange(3), 4, "wants uint8 images"),
        (images_of(3)[0], torch.arange(3), 4, "wants uint8 images"),
        (images_of(3), torch.arange(2), 4, r"3 images but indices of shape \(2,\)"),
        (images_of(3), torch.arange(3), -1, "padding must be at least 0, got -1"),
    ],
)
def test_bad_input(images, indices, padding, message):
    with pytest.raises(DataError, match=message):
        augment(images, indices, seed=0, epoch=0, padding=padding)
