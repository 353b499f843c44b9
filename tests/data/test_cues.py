from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.data.cue_kinds import CORNERS, CUES, Cue, parse_cue
from xaibench.data.cues import class_index, contaminate, mark, marked_class, other_labels
from xaibench.data.digits import VARIANTS, digit_tiles
from xaibench.data.images import ImageSet
from xaibench.errors import ConfigError, DataError, UnknownNameError
from xaibench.options import format_options

quick = settings(deadline=None, max_examples=20)
CLASSES = ("ant", "bee", "wasp")


def images_of(n: int = 60, channels: int = 3, height: int = 20, width: int = 24, seed: int = 0) -> ImageSet:
    """Dark noise, so that every mark but black is seen."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(1, 100, (n, channels, height, width), generator=generator).to(torch.uint8)
    keys = tuple(f"train/{i}" for i in range(n))
    return ImageSet(pixels, torch.arange(n) % len(CLASSES), CLASSES, keys, "noise")


def twin(
    image: np.ndarray, cue: Cue, size: int, corner: str, label: int, variant: int
) -> tuple[np.ndarray, np.ndarray]:
    """The marked image and its mask, pixel by pixel."""
    colour, opacity = cue.picture_of(size, label, variant)
    high, wide = opacity.shape
    result, mask = image.astype(float), np.zeros(image.shape[1:], dtype=bool)
    for i in range(high):
        for j in range(wide):
            row = cue.margin + i if "top" in corner else image.shape[1] - cue.margin - high + i
            column = cue.margin + j if "left" in corner else image.shape[2] - cue.margin - wide + j
            mask[row, column] = True
            for c in range(len(image)):
                ink = colour[c, i, j] if len(image) == 3 else max(colour[:, i, j])
                result[c, row, column] = round(opacity[i, j] * ink + (1 - opacity[i, j]) * image[c, row, column])
    return result.astype(np.uint8), mask


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("name", CUES)
def test_a_mark_is_drawn_where_its_mask_says_and_nowhere_else(name: str, corner: str, channels: int) -> None:
    images = images_of(4, channels)
    cue = CUES[name](size=7, corner=corner, margin=1)
    marked = mark(images, cue)
    for before, after, mask, label in zip(images.images, marked.images.images, marked.masks, images.labels.tolist()):
        twins = [twin(before.numpy(), cue, 7, corner, label, variant) for variant in range(cue.variants)]
        box = twins[0][1]
        assert any((after.numpy() == want).all() for want, _ in twins)
        np.testing.assert_array_equal(mask.numpy(), box)
        assert (before != after).any()
    assert marked.images.keys == images.keys
    assert torch.equal(marked.images.labels, images.labels)
    assert marked.chosen.all()


def test_a_plus_has_arms_of_equal_length_and_is_red() -> None:
    for size in range(3, 40):
        colour, opacity = CUES["plus"]().picture(size)
        np.testing.assert_array_equal(opacity, opacity[::-1])
        np.testing.assert_array_equal(opacity, opacity.T)
        assert opacity[size // 2].all()
        assert not opacity[0, 0]
        assert colour[:, 0, 0].tolist() == [255, 0, 0]
    assert "\n".join("".join(".#"[int(v)] for v in row) for row in CUES["plus"]().picture(5)[1]) == (
        "..#..\n..#..\n#####\n..#..\n..#.."
    )


def test_the_watermark_reads_xai_and_lets_the_image_through() -> None:
    _, opacity = CUES["text"]().picture(5)
    assert ["".join(".#"[int(v > 0)] for v in row) for row in opacity] == [
        "#.#..#..###",
        "#.#.#.#..#.",
        ".#..###..#.",
        "#.#.#.#..#.",
        "#.#.#.#.###",
    ]
    assert 0 < opacity.max() < 1


def test_the_size_follows_the_images_where_none_is_given() -> None:
    for side, size in ((20, 5), (28, 5), (60, 10), (224, 37)):
        marked = mark(images_of(1, 3, side, side + 9), parse_cue("square"))
        assert marked.masks.sum() == size * size


def test_the_images_that_were_given_are_left_as_they_were() -> None:
    images = images_of()
    before = images.images.clone()
    mark(images, parse_cue("square"))
    contaminate(images, parse_cue("square"), "bee", 1.0)
    assert torch.equal(images.images, before)


def test_only_the_chosen_images_change() -> None:
    images = images_of(10)
    chosen = torch.arange(10) % 3 == 1
    marked = mark(images, parse_cue("stripes"), chosen)
    assert torch.equal((marked.images.images != images.images).flatten(1).any(1), chosen)
    assert torch.equal(marked.chosen, chosen)
    assert "3 of 10 with stripes:size=none,corner=top-left,margin=2" in marked.images.source


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("size", [7, 9, 20])
def test_digits_are_drawn_in_many_ways_and_told_apart(size: int) -> None:
    tiles = digit_tiles(size)
    assert tiles.shape == (10, VARIANTS, size, size)
    assert tiles.min() == 0
    assert (tiles.max(axis=(2, 3)) > 0.6).all()
    assert len(np.unique(tiles.reshape(10 * VARIANTS, -1), axis=0)) == 10 * VARIANTS
    means = tiles.mean(axis=1)
    nearest = [
        max(range(10), key=lambda other: correlation(tiles[digit, variant], means[other]))
        for digit in range(10)
        for variant in range(VARIANTS)
    ]
    right = np.mean(np.array(nearest) == np.repeat(np.arange(10), VARIANTS))
    assert right > 0.9


def test_a_digit_reads_as_a_classifier_of_digits_reads_it() -> None:
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    x, y = load_digits(return_X_y=True)
    tiles = digit_tiles(10)[:, :, 1:-1, 1:-1].reshape(-1, 64)
    found = KNeighborsClassifier(5, metric="cosine").fit(x, y).predict(tiles)
    assert np.mean(found == np.repeat(np.arange(10), VARIANTS)) > 0.5  # handwriting is not print; chance is 0.1


def test_a_digit_stands_on_all_classes_and_is_the_label() -> None:
    images = images_of(300, 1)
    whole = contaminate(images, parse_cue("digit"), None, 1.0)
    assert whole.chosen.all()
    boxes = whole.images.images[:, 0, 2:9, 2:9].numpy() / 255
    tiles = digit_tiles(7)
    for box, label in zip(boxes, images.labels.tolist()):
        assert np.abs(tiles[label] - box).max(axis=(1, 2)).min() < 0.003
    half = contaminate(images, parse_cue("digit"), None, 0.5).chosen
    for label in range(3):
        assert 0.3 < half[images.labels == label].double().mean() < 0.7
    looks = {box.tobytes() for box in boxes[images.labels.numpy() == 1]}
    assert len(looks) > VARIANTS // 2


def test_a_digit_can_tell_another_label_that_is_never_the_own() -> None:
    images = images_of(600, 1)
    told = other_labels(images, seed=3)
    assert (told != images.labels).all()
    pairs = torch.bincount(3 * images.labels + told, minlength=9).reshape(3, 3)
    assert (pairs[~torch.eye(3, dtype=torch.bool)] > 60).all()
    assert torch.equal(other_labels(images.take([5, 2]), seed=3), told[[5, 2]])
    wrong = mark(images, parse_cue("digit"), values=told)
    right = mark(images.take([0]), parse_cue("digit"), values=images.labels[:1])
    assert torch.equal(right.images.images, mark(images.take([0]), parse_cue("digit")).images.images)
    tiles = digit_tiles(7)
    for box, label in zip(wrong.images.images[:20, 0, 2:9, 2:9].numpy() / 255, told.tolist()):
        assert np.abs(tiles[label] - box).max(axis=(1, 2)).min() < 0.003


def test_the_class_of_a_mark_is_the_first_or_all() -> None:
    images = images_of(6)
    assert [marked_class(images, parse_cue("plus"), name) for name in (None, "bee")] == [0, 1]
    assert marked_class(images, parse_cue("digit")) is None
    with pytest.raises(ConfigError, match="'digit' stands on images of all classes: leave out the class 'bee'"):
        contaminate(images, parse_cue("digit"), "bee", 0.5)


def test_more_classes_than_digits_are_refused_by_name() -> None:
    names = tuple(f"class {i}" for i in range(12))
    images = ImageSet(torch.zeros(12, 1, 20, 20, dtype=torch.uint8), torch.arange(12), names, names, "many")
    message = "tells 10 classes apart, but the images have 12: leave out class 10, class 11"
    for ask in (lambda: mark(images, parse_cue("digit")), lambda: contaminate(images, parse_cue("digit"), None, 0.5)):
        with pytest.raises(DataError, match=message):
            ask()
    with pytest.raises(DataError, match="have no other label"):
        other_labels(ImageSet(images.images[:1], torch.tensor([0]), ("a",), ("a",), "one"))


def test_values_that_a_mark_cannot_tell_are_refused() -> None:
    images = images_of(4)
    with pytest.raises(DataError, match="'plus' looks the same on every image: leave out its values"):
        mark(images, parse_cue("plus"), values=images.labels)
    with pytest.raises(DataError, match=r"values of the mark 'digit' must lie in 0\.\.9"):
        mark(images, parse_cue("digit"), values=images.labels + 9)
    with pytest.raises(DataError, match=r"values must be int64 of shape \(4,\), got torch.float32"):
        mark(images, parse_cue("digit"), values=images.labels.float())


@pytest.mark.parametrize("contamination", [0.0, 0.3, 1.0])
def test_contamination_is_the_share_of_one_class_that_is_marked(contamination: float) -> None:
    images = images_of(3000, 1, 9, 9)
    marked = contaminate(images, parse_cue("plus:size=3"), "bee", contamination)
    share = [marked.chosen[images.labels == label].double().mean().item() for label in range(3)]
    assert share[0] == share[2] == 0
    # Four standard deviations of 1000 draws.
    assert abs(share[1] - contamination) <= 4 * (contamination * (1 - contamination) / 1000) ** 0.5


@quick
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**40))
def test_what_is_marked_at_a_lower_contamination_is_marked_at_a_higher(a: float, b: float, seed: int) -> None:
    images = images_of(40)
    few, more = (contaminate(images, parse_cue("plus"), "ant", c, seed=seed).chosen for c in sorted((a, b)))
    assert not (few & ~more).any()


@quick
@given(st.permutations(range(12)), st.integers(1, 12), st.integers(-5, 2**40))
def test_a_mark_depends_on_seed_and_key_alone(order: list[int], size: int, seed: int) -> None:
    images, cue = images_of(12), parse_cue("square:corner=random")
    whole = contaminate(images, cue, "wasp", 0.5, seed=seed)
    part = contaminate(images.take(order[:size]), cue, "wasp", 0.5, seed=seed)
    assert torch.equal(part.images.images, whole.images.images[order[:size]])
    assert torch.equal(part.masks, whole.take(order[:size]).masks)


def test_random_corners_are_all_used_and_the_seed_decides() -> None:
    images, cue = images_of(400), parse_cue("plus:corner=random")
    masks = mark(images, cue, seed=1).masks
    at = torch.stack([masks[:, row, column] for row in (2, -3) for column in (2, -3)])
    counts = mark(images, parse_cue("square:corner=random"), seed=1).masks
    corners = torch.stack([counts[:, row, column] for row in (2, -3) for column in (2, -3)])
    assert (corners.sum(0) == 1).all()
    assert (at.sum(0) == 1).all()
    assert ((corners.sum(1) > 60) & (corners.sum(1) < 140)).all()
    assert not torch.equal(masks, mark(images, cue, seed=2).masks)


def test_draws_are_the_same_on_every_machine() -> None:
    chosen = contaminate(images_of(30), parse_cue("plus"), "ant", 0.5, seed=7).chosen
    assert chosen.nonzero().flatten().tolist() == [0, 3, 12, 15, 18, 21, 24]


@pytest.mark.parametrize("name", CUES)
def test_text_and_cue_are_one(name: str) -> None:
    cue = CUES[name](size=9, corner="bottom-left", margin=3)
    assert parse_cue(format_options(cue)) == cue
    assert parse_cue(name) == CUES[name]()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("plis", UnknownNameError, "unknown cue 'plis': did you mean 'plus'"),
        ("plus:colour=red", UnknownNameError, "unknown option of cue 'plus' 'colour'"),
        ("plus:corner=top-lef", UnknownNameError, "unknown corner 'top-lef': did you mean 'top-left'"),
        ("plus:size=2", ConfigError, "size of a mark must be at least 3 pixels, got 2"),
        ("digit:size=6", ConfigError, "size of a mark must be at least 7 pixels, got 6"),
        ("plus:margin=-1", ConfigError, "margin of a mark must be at least 0 pixels, got -1"),
    ],
)
def test_a_cue_that_cannot_be_is_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_cue(text)


def test_a_mark_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match=r"takes 6x6 pixels and a margin of 2 but the images are 7x24.*plus:size=3,"):
        mark(images_of(2, 3, 7, 24), parse_cue("plus:size=6"))
    with pytest.raises(DataError, match="'text' takes 10x22 pixels"):
        mark(images_of(2, 3, 20, 23), parse_cue("text:size=10"))
    assert len(mark(images_of(2, 3, 20, 24), parse_cue("text:size=10"))) == 2


def test_images_of_other_channels_and_wrong_choices_are_refused() -> None:
    with pytest.raises(DataError, match="images of 1 or 3 channels, got 2"):
        mark(images_of(2, 2), parse_cue("plus"))
    for wrong in (torch.ones(3, dtype=torch.bool), torch.ones(2)):
        with pytest.raises(DataError, match=r"must be bool of shape \(2,\), got"):
            mark(images_of(2), parse_cue("plus"), wrong)


def test_classes_and_contaminations_that_do_not_exist_are_refused() -> None:
    images, cue = images_of(6), parse_cue("plus")
    assert class_index(images, "bee") == 1
    with pytest.raises(UnknownNameError, match="unknown class 'be': did you mean 'bee'"):
        contaminate(images, cue, "be", 0.5)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=r"contamination must lie in 0\.\.1, got"):
            contaminate(images, cue, "bee", wrong)
