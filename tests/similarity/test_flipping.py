"""Flip curves: closed forms for linear models, a slow twin, Quantus, and the laws of orders."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from xaibench.attribution.baselines import make_baselines
from xaibench.attribution.targets import Target, make_target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, DataError, ExplanationError, UnknownNameError
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import state_hash
from xaibench.similarity.flipping import FlipCurve, flip_curve
from xaibench.similarity.patch_order import patch_order, random_order

PREPROCESSING = Preprocessing((0.5, 0.45, 0.4), (0.25, 0.3, 0.2))
N, SIDE, K = 4, 12, 3


@pytest.fixture(scope="module")
def x() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return PREPROCESSING(torch.randint(0, 256, (N, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    model = build_model("resnet18-cifar:4-6-8-8@4", K, seed=3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(0))
                module.bias.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(1))
    return model.eval()


@pytest.fixture(scope="module")
def target(network: nn.Module, x: Tensor) -> Target:
    with torch.no_grad():
        return make_target(network(x))


@pytest.fixture(scope="module")
def maps(x: Tensor) -> Tensor:
    return torch.randn(N, SIDE, SIDE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def linear(seed: int = 0, side: int = SIDE) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, K)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return model.eval()


def contributions(model: nn.Module, x: Tensor, target: Target, fill: str) -> Tensor:
    """(w_y - w_r) (x - baseline), summed over channels: what each pixel gives a linear model."""
    weight = model[1].weight.detach()
    w = (weight[target.label] - weight[target.contrast]).view_as(x)
    return (w * (x - make_baselines(fill, x, PREPROCESSING)[0].to(x))).sum(dim=1)


def slow_curve(
    model: nn.Module, x: Tensor, order: np.ndarray, target: Target, base: Tensor, grid: int, insertion: bool = False
) -> list[list[float]]:
    """One image, one patch, one pixel at a time."""
    curves = []
    for i in range(len(x)):
        image = (base if insertion else x)[i].clone()
        source = (x if insertion else base)[i]
        curve = []
        for cell in [None, *order[i]]:
            if cell is not None:
                for a, b in itertools.product(range(x.shape[2]), range(x.shape[3])):
                    if a * grid // x.shape[2] == cell // grid and b * grid // x.shape[3] == cell % grid:
                        image[:, a, b] = source[:, a, b]
            with torch.no_grad():
                logits = model(image[None])[0].double()
            curve.append(float(logits[target.label[i]] - logits[target.contrast[i]]))
        curves.append(curve)
    return curves


@pytest.mark.parametrize(("fill", "grid"), [("mean", 3), ("black", 4), ("blur", 5)])
@pytest.mark.parametrize("mode", ["flip", "insertion"])
def test_a_curve_is_that_of_one_patch_at_a_time(
    network: nn.Module, x: Tensor, maps: Tensor, target: Target, fill: str, grid: int, mode: str
) -> None:
    curve = flip_curve(
        network, x, maps, target, PREPROCESSING, grid=grid, fill=fill, mode=mode, measure="difference", points=7
    )
    base = make_baselines(fill, x, PREPROCESSING)[0].expand_as(x)
    want = slow_curve(network, x, patch_order(maps, grid), target, base, grid, mode == "insertion")
    np.testing.assert_allclose(curve.outputs, want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(curve.fractions, np.arange(grid * grid + 1) / grid**2)
    np.testing.assert_allclose(curve.auc, [np.mean([np.mean(c[:-1]), np.mean(c[1:])]) for c in want], atol=1e-5)


@given(seed=st.integers(0, 10**6), grid=st.integers(1, SIDE), fill=st.sampled_from(["mean", "black", "blur"]))
@settings(deadline=None, max_examples=15)
def test_a_linear_model_drops_by_what_was_removed(seed: int, grid: int, fill: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    model = linear(seed)
    target = make_target(model(x).detach())
    share = contributions(model, x, target, fill)
    order = random_order(3, grid * grid, seed)
    curve = flip_curve(model, x, order, target, PREPROCESSING, fill=fill)
    for i in range(3):
        removed = [
            sum(float(share[i][slice_of(cell, grid)].sum()) for cell in order[i][:count])
            for count in range(grid * grid + 1)
        ]
        whole = float(target.take([i]).select(model(x[i : i + 1]).detach())[0])
        np.testing.assert_allclose(curve.outputs[i], whole - np.array(removed), rtol=0, atol=1e-9)


def slice_of(cell: int, grid: int) -> tuple[slice, slice]:
    """Rows and columns of a cell, found by looking at all pixels."""
    ends = []
    for place in divmod(int(cell), grid):
        inside = [i for i in range(SIDE) if i * grid // SIDE == place]
        ends.append(slice(inside[0], inside[-1] + 1))
    return ends[0], ends[1]


@pytest.mark.parametrize("grid", [3, 5])
def test_for_a_linear_model_no_order_beats_that_of_its_contributions(grid: int) -> None:
    x = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = linear()
    target = make_target(model(x).detach())

    def auc(order: object, **options: str) -> np.ndarray:
        return flip_curve(model, x, order, target, PREPROCESSING, grid=grid, **options).auc

    share = contributions(model, x, target, "mean")
    best, worst = auc(share), auc(share, first="least")
    for seed in range(20):
        other = auc(random_order(2, grid * grid, seed))
        assert (best < other).all()
        assert (other < worst).all()


def test_the_ends_are_the_plain_and_the_filled_image(
    network: nn.Module, x: Tensor, maps: Tensor, target: Target
) -> None:
    for fill in ("mean", "black", "blur", "inpaint"):
        curve = flip_curve(network, x, maps, target, PREPROCESSING, fill=fill)
        base = torch.zeros_like(x) if fill == "inpaint" else make_baselines(fill, x, PREPROCESSING)[0].expand_as(x)
        with torch.no_grad():
            ends = [network(image).double() for image in (x, base)]
        for column, logits in zip((0, -1), ends):
            np.testing.assert_allclose(curve.outputs[:, column], target.select(logits), atol=1e-5)
            np.testing.assert_array_equal(curve.predictions[:, column], logits.argmax(1))


@pytest.mark.parametrize("fill", ["mean", "inpaint"])
@pytest.mark.parametrize("steps", [None, 3])
def test_insertion_of_the_least_relevant_first_is_flipping_read_backwards(
    network: nn.Module, x: Tensor, maps: Tensor, target: Target, fill: str, steps: int | None
) -> None:
    options = {"fill": fill, "steps": steps, "measure": "difference"}
    flip = flip_curve(network, x, maps, target, PREPROCESSING, **options)
    back = flip_curve(network, x, maps, target, PREPROCESSING, mode="insertion", first="least", **options)
    np.testing.assert_allclose(back.outputs[:, ::-1], flip.outputs, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(back.predictions[:, ::-1], flip.predictions)
    np.testing.assert_array_equal(back.unchanged[:, ::-1], flip.unchanged)
    np.testing.assert_allclose(back.auc, flip.auc, atol=1e-5)


def test_modes_and_measures(network: nn.Module, x: Tensor, maps: Tensor, target: Target) -> None:
    def curve(**options: str) -> FlipCurve:
        return flip_curve(network, x, maps, target, PREPROCESSING, **options)

    flip, deletion = curve(), curve(mode="deletion")
    assert (flip.measure, deletion.measure, curve(mode="insertion").measure) == (
        "difference",
        "probability",
        "probability",
    )
    np.testing.assert_allclose(curve(mode="deletion", measure="difference").outputs, flip.outputs)
    with torch.no_grad():
        want = network(x).double().softmax(1)[torch.arange(N), target.label]
    np.testing.assert_allclose(deletion.outputs[:, 0], want, atol=1e-6)
    assert ((deletion.outputs > 0) & (deletion.outputs < 1)).all()
    np.testing.assert_array_equal(flip.agreement(deletion), 1)


@pytest.mark.parametrize(("mode", "whole"), [("flip", 0), ("insertion", -1)])
def test_agreement_is_with_the_whole_image(x: Tensor, maps: Tensor, mode: str, whole: int) -> None:
    model = linear(2)
    logits = model(x.double()).detach()
    curve = flip_curve(model, x.double(), maps, make_target(logits), PREPROCESSING, mode=mode, measure="agreement")
    want = curve.predictions == logits.argmax(dim=1)[:, None].numpy()
    assert not want.all()
    assert want[:, whole].all()
    np.testing.assert_array_equal(curve.outputs, want)
    np.testing.assert_array_equal(curve.unchanged, want)


def test_fewer_steps_are_points_of_the_full_curve(network: nn.Module, x: Tensor, maps: Tensor, target: Target) -> None:
    full = flip_curve(network, x, maps, target, PREPROCESSING, grid=4)
    few = flip_curve(network, x, maps, target, PREPROCESSING, grid=4, steps=5)
    np.testing.assert_allclose(few.fractions, np.array([0, 3, 6, 10, 13, 16]) / 16)
    np.testing.assert_allclose(few.outputs, full.outputs[:, [0, 3, 6, 10, 13, 16]], rtol=0, atol=1e-5)


def test_points_and_company_do_not_matter(network: nn.Module, x: Tensor, maps: Tensor, target: Target) -> None:
    for fill in ("blur", "inpaint"):
        many = flip_curve(network, x, maps, target, PREPROCESSING, fill=fill)
        few = flip_curve(network, x, maps, target, PREPROCESSING, fill=fill, points=3)
        alone = flip_curve(network, x[2:3], maps[2:3], target.take([2]), PREPROCESSING, fill=fill)
        np.testing.assert_allclose(few.outputs, many.outputs, rtol=0, atol=1e-5)
        np.testing.assert_allclose(alone.outputs, many.outputs[2:3], rtol=0, atol=1e-5)


def test_the_model_is_left_as_it_was_and_seen_in_evaluation_mode(x: Tensor, maps: Tensor, target: Target) -> None:
    model = build_model("resnet18-cifar:4-6-8-8@4", K, seed=1).train()
    before, flags = state_hash(model), [p.requires_grad for p in model.parameters()]
    trained = flip_curve(model, x, maps, target, PREPROCESSING)
    assert model.training
    assert state_hash(model) == before
    assert [p.requires_grad for p in model.parameters()] == flags
    still = flip_curve(copy.deepcopy(model).eval(), x, maps, target, PREPROCESSING)
    np.testing.assert_array_equal(trained.outputs, still.outputs)


def test_undefined_orders_give_undefined_curves(network: nn.Module, x: Tensor, maps: Tensor, target: Target) -> None:
    broken = maps.clone()
    broken[0], broken[2, 3, 3] = 0.7, torch.nan
    curve = flip_curve(network, x, broken, target, PREPROCESSING)
    assert list(curve.defined) == [False, True, False, True]
    for values in (curve.outputs, curve.unchanged, curve.agreement(curve)):
        assert np.isnan(values[[0, 2]]).all()
        assert np.isfinite(values[[1, 3]]).all()
    assert (curve.predictions[[0, 2]] == -1).all()
    np.testing.assert_array_equal(np.isnan(curve.auc), [True, False, True, False])
    assert "2 undefined" in repr(curve)
    whole = flip_curve(network, x, maps, target, PREPROCESSING)
    np.testing.assert_allclose(curve.outputs[[1, 3]], whole.outputs[[1, 3]], rtol=0, atol=1e-5)
    none = flip_curve(network, x, torch.zeros_like(maps), target, PREPROCESSING)
    assert not none.defined.any()


def test_orders_sum_over_patches_and_break_ties_by_position() -> None:
    maps = np.zeros((2, 7, 5))
    maps[0, 6, 4], maps[0, 0, 0] = 2.0, 1.0
    order = patch_order(maps, 2)
    np.testing.assert_array_equal(order, [[3, 0, 1, 2], [-1] * 4])
    sparse = np.zeros((1, 28, 28))
    sparse[0, 14, 14] = 1.0
    np.testing.assert_array_equal(patch_order(sparse, 7), [[24, *range(24), *range(25, 49)]])
    # The larger patch wins by its sum: rows 0-3 and 4-6 of a map with equal pixels but one.
    maps = np.ones((1, 7, 4))
    maps[0, 6, 0] = 1.5
    np.testing.assert_array_equal(patch_order(maps, 2), [[0, 1, 2, 3]])


@given(
    height=st.integers(2, 13),
    width=st.integers(2, 13),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
@settings(deadline=None, max_examples=25)
def test_orders_are_those_of_the_sums_of_their_pixels(height: int, width: int, seed: int, data: st.DataObject) -> None:
    grid = data.draw(st.integers(1, min(height, width)))
    maps = np.random.default_rng(seed).standard_normal((3, height, width))
    sums = np.zeros((3, grid * grid))
    for i, j in itertools.product(range(height), range(width)):
        sums[:, i * grid // height * grid + j * grid // width] += maps[:, i, j]
    order = patch_order(maps, grid)
    if grid == 1:
        assert (order == -1).all()
        return
    assert (np.diff(np.take_along_axis(sums, order, 1), axis=1) <= 1e-12).all()
    np.testing.assert_array_equal(patch_order(torch.from_numpy(maps) * 7, grid), order)


@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (28, 28)])
def test_constant_maps_have_no_order_also_where_patches_differ_in_size(shape: tuple[int, int]) -> None:
    for value in (0.0, 0.3, -1e-20, 1e20, np.inf):
        assert (patch_order(np.full((1, *shape), value), 3) == -1).all()


def test_random_orders_are_seeded_permutations_of_their_own() -> None:
    order = random_order(50, 9, seed=4)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(9), (50, 1)))
    np.testing.assert_array_equal(order, random_order(50, 9, seed=4))
    assert not np.array_equal(order, random_order(50, 9, seed=5))
    assert len({tuple(row) for row in order}) > 45
    np.testing.assert_array_equal(order[:7], random_order(7, 9, seed=4))


class Tuple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1 / x[:, :, 0, 0].abs().sum(dim=1, keepdim=True).expand(-1, K)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mode": "delete"}, UnknownNameError, "unknown mode 'delete': did you mean 'deletion'"),
        ({"measure": "probabilty"}, UnknownNameError, "unknown measure 'probabilty': did you mean 'probability'"),
        ({"fill": "grey"}, UnknownNameError, "unknown fill 'grey'"),
        ({"first": "last"}, UnknownNameError, "unknown start 'last'"),
        ({"points": 0}, ConfigError, "points must be at least 1, got 0"),
        ({"steps": 10}, ConfigError, "9 patches cannot be removed in 10 steps: choose 1 to 9"),
        ({"steps": 0}, ConfigError, "in 0 steps"),
        ({"grid": 13}, ConfigError, "grid 13 does not fit 12x12 images: choose 1 to 12"),
        ({"order": torch.zeros(N, 6, 6)}, DataError, r"of shape \(4, 6, 6\) do not fit images \(4, 3, 12, 12\)"),
        ({"order": torch.zeros(3, 9)}, DataError, r"give maps \(N, H, W\) or orders"),
        ({"order": random_order(N, 8)}, DataError, "an order of 8 cells is no 2x2 grid"),
        ({"order": random_order(N, 9), "grid": 4}, DataError, "an order of 9 cells is no 4x4 grid"),
        ({"order": np.zeros((N, 9), dtype=int)}, DataError, "must name each cell once"),
        ({"x": torch.zeros(3, 12, 12)}, ExplanationError, r"wants normalised images \(N, C, H, W\), got"),
        ({"target": Target(torch.tensor([0]), torch.tensor([1]))}, ExplanationError, "4 images but 1 targets"),
        (
            {"target": Target(torch.full((N,), 3), torch.full((N,), 1))},
            ExplanationError,
            r"target class 3 is not among the 3 classes of ScaledResNet18: use 0\.\.2",
        ),
        ({"model": Tuple()}, ExplanationError, "Tuple returns tuple of 2 tensors of shape .*, not logits"),
        ({"model": Broken()}, ExplanationError, "Broken gives NaN or infinite logits for images with patches removed"),
    ],
)
def test_what_cannot_be_flipped_is_refused(
    network: nn.Module,
    x: Tensor,
    maps: Tensor,
    target: Target,
    changes: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    given = {"model": network, "x": x, "order": maps, "target": target} | changes
    model, images, order, asked = (given.pop(name) for name in ("model", "x", "order", "target"))
    with pytest.raises(error, match=message):
        flip_curve(model, images, order, asked, PREPROCESSING, **({"grid": None} | given))


def test_curves_of_other_shapes_do_not_agree(network: nn.Module, x: Tensor, maps: Tensor, target: Target) -> None:
    one = flip_curve(network, x, maps, target, PREPROCESSING)
    other = flip_curve(network, x, maps, target, PREPROCESSING, steps=3)
    with pytest.raises(DataError, match="flip the same images in the same steps"):
        one.agreement(other)


class Difference(nn.Module):
    """Logit 0 is z_y - z_r of a fixed target: what Quantus can ask for."""

    def __init__(self, model: nn.Module, label: int, contrast: int) -> None:
        super().__init__()
        self.model, self.label, self.contrast = model, label, contrast

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x.double())
        return torch.stack([logits[:, self.label] - logits[:, self.contrast], logits[:, self.contrast]], dim=1)


@pytest.mark.parametrize("fill", ["mean", "blur"])
@pytest.mark.parametrize("first", ["most", "least"])
def test_curves_are_those_of_quantus(
    network: nn.Module, x: Tensor, maps: Tensor, target: Target, fill: str, first: str
) -> None:
    quantus = pytest.importorskip("quantus", reason="the oracle Quantus is not installed")
    grid = 3  # Quantus wants 144 pixels to be a multiple of 3 channels x 16 pixels
    exact = copy.deepcopy(network).double()
    curve = flip_curve(exact, x.double(), maps, target, PREPROCESSING, grid=grid, fill=fill, first=first)
    base = make_baselines(fill, x, PREPROCESSING)[0].expand_as(x).numpy()
    order = patch_order(maps, grid)
    ranks = np.argsort(order, axis=1).reshape(N, grid, grid).repeat(SIDE // grid, 1).repeat(SIDE // grid, 2)
    relevance = (ranks if first == "least" else -ranks)[:, None].astype(float)
    for i in range(N):

        def replace(arr: np.ndarray, indices: np.ndarray, i: int = i, **_: object) -> np.ndarray:
            changed, places = np.array(arr).ravel(), np.ravel(indices)
            changed[places] = base[i].ravel()[places]
            return changed.reshape(np.shape(arr))

        metric = quantus.PixelFlipping(
            features_in_step=3 * (SIDE // grid) ** 2,
            normalise=False,
            perturb_func=replace,
            disable_warnings=True,
        )
        model = Difference(exact, int(target.label[i]), int(target.contrast[i]))
        scores = metric(
            model=model.eval(),
            x_batch=x[i : i + 1].numpy(),
            y_batch=np.array([0]),
            a_batch=relevance[i : i + 1],
            softmax=False,
            channel_first=True,
        )
        np.testing.assert_allclose(curve.outputs[i, 1:], np.ravel(scores), rtol=0, atol=1e-6)
