"""What all losses on a pair of layers keep to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.losses.at import AttentionLoss
from xaibench.distillation.losses.fitnet import FitNetLoss
from xaibench.distillation.losses.layer import LayerLoss, squared_length
from xaibench.distillation.losses.rkd import RelationLoss
from xaibench.distillation.losses.spkd import SimilarityLoss
from xaibench.distillation.losses.subdistill import SubspaceLoss
from xaibench.distillation.losses.vid import VIDLoss
from xaibench.distillation.losses.vkd import VkDLoss
from xaibench.models.maps import common_size, pool_to
from xaibench.subspace import Basis

Normal = Callable[..., Tensor]
TEACHER, STUDENT = (6, 4, 4), (4, 8, 2)
BASIS = Basis(torch.eye(6).double()[:, :4], torch.ones(6).double(), 5.0, 1.0, "identity")
FULL = Basis(torch.eye(6).double(), torch.ones(6).double(), 5.0, 1.0, "identity")
MAKE: dict[str, Callable[[], LayerLoss]] = {
    "at": lambda: AttentionLoss(TEACHER, STUDENT),
    "fitnet": lambda: FitNetLoss(TEACHER, STUDENT),
    "fitnet channel-sum": lambda: FitNetLoss(TEACHER, STUDENT, "channel-sum"),
    "vid": lambda: VIDLoss(TEACHER, STUDENT),
    "vkd": lambda: VkDLoss(TEACHER, STUDENT),
    "spkd": SimilarityLoss,
    "rkd": lambda: RelationLoss(25, 50),
    "spkd norm": lambda: SimilarityLoss("norm"),
    "subdistill": lambda: SubspaceLoss(BASIS, STUDENT),
    "subdistill full": lambda: SubspaceLoss(FULL, STUDENT),
    "subdistill linear full": lambda: SubspaceLoss(FULL, STUDENT, mapping="linear", centring="mean"),
    "subdistill soft": lambda: SubspaceLoss(BASIS, STUDENT, mapping="soft-singular", normalise=False),
}
each = pytest.mark.parametrize("name", MAKE)


def made(name: str) -> LayerLoss:
    torch.manual_seed(0)
    return MAKE[name]()


@each
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 999), order=st.permutations(range(5)))
def test_the_order_of_the_batch_only_orders_the_losses(normal: Normal, name: str, seed: int, order: list[int]) -> None:
    loss = made(name).double()
    student, teacher = normal(5, *STUDENT, seed=seed), normal(5, *TEACHER, seed=seed + 1)
    value = loss(student, loss.target(teacher))
    assert value.shape == (5,)
    assert torch.allclose(loss(student[order], loss.target(teacher[order])), value[order], rtol=1e-8)
    assert torch.allclose(loss.target(teacher[order]), loss.target(teacher)[order])  # rows, fit for a cache


@each
def test_what_is_cached_is_the_same_at_every_step(normal: Normal, name: str) -> None:
    """Nothing learned takes part in the target, and it needs no gradient."""
    loss = made(name).double()
    teacher = normal(5, *TEACHER)
    before = loss.target(teacher).clone()
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter)
    loss.train(not loss.training)
    assert torch.equal(loss.target(teacher), before)
    assert not before.requires_grad


@each
def test_gradients(normal: Normal, name: str) -> None:
    loss = made(name).double()
    target = loss.target(normal(3, *TEACHER, seed=1))
    assert torch.autograd.gradcheck(lambda s: loss(s, target), normal(3, *STUDENT).requires_grad_())


@each
def test_the_student_and_all_that_is_learned_get_a_gradient(normal: Normal, name: str) -> None:
    loss = made(name)
    student = normal(5, *STUDENT).float().requires_grad_()
    loss(student, loss.target(normal(5, *TEACHER).float())).mean().backward()
    for tensor in (student, *loss.parameters()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["vkd", "subdistill", "subdistill full"])
def test_orthonormal_maps_stay_so_under_weight_decay(normal: Normal, name: str) -> None:
    loss = made(name)
    student, target = normal(5, *STUDENT).float(), loss.target(normal(5, *TEACHER).float())
    optimizer = torch.optim.AdamW(loss.parameters(), lr=0.1, weight_decay=0.5)
    start = loss(student, target).mean().item()
    for _ in range(10):
        optimizer.zero_grad()
        loss(student, target).mean().backward()
        optimizer.step()
    weight = loss.projection.weight if isinstance(loss, VkDLoss) else loss.rotation.weight  # type: ignore[union-attr]
    assert torch.allclose(weight.T @ weight, torch.eye(4), atol=1e-5)
    assert loss(student, target).mean().item() < start


@each
def test_mixed_precision_keeps_the_loss_in_float32(normal: Normal, name: str) -> None:
    loss = made(name)
    student, teacher = normal(5, *STUDENT).float(), normal(5, *TEACHER).float()
    exact = loss(student, loss.target(teacher))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = loss(student.bfloat16(), loss.target(teacher.bfloat16()))
    assert rough.dtype == torch.float32
    assert torch.allclose(rough, exact, rtol=5e-2)


@each
@pytest.mark.parametrize(
    ("teacher", "student"), [((6, 2, 4), (4, 2, 4)), ((6, 1, 1), (4, 3, 3)), ((6, 8, 8), (4, 3, 5))]
)
def test_maps_of_any_sizes_can_be_compared(
    normal: Normal, name: str, teacher: tuple[int, int, int], student: tuple[int, int, int], monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(globals(), "TEACHER", teacher)
    monkeypatch.setitem(globals(), "STUDENT", student)
    loss = made(name)
    value = loss(normal(5, *student).float(), loss.target(normal(5, *teacher).float()))
    assert value.shape == (5,)
    assert torch.isfinite(value).all()


def slow_pool(maps: Tensor, h: int, w: int) -> Tensor:
    out = torch.zeros(*maps.shape[:2], h, w, dtype=maps.dtype)
    height, width = maps.shape[2:]
    for i in range(h):
        for j in range(w):
            rows = range(i * height // h, -((i + 1) * height // -h))
            columns = range(j * width // w, -((j + 1) * width // -w))
            cells = [maps[:, :, r, c] for r in rows for c in columns]
            out[:, :, i, j] = sum(cells) / len(cells)  # type: ignore[assignment]
    return out


@pytest.mark.parametrize(("size", "want"), [((2, 2), (2, 2)), ((3, 5), (3, 5)), ((9, 2), (6, 2)), ((9, 9), (6, 5))])
def test_pooling_only_makes_smaller(normal: Normal, size: tuple[int, int], want: tuple[int, int]) -> None:
    maps = normal(2, 3, 6, 5)
    assert torch.allclose(pool_to(maps, size), slow_pool(maps, *want), atol=1e-12)


def test_the_common_size_is_the_smaller_in_each_direction() -> None:
    assert common_size((6, 8, 3), (4, 5, 7)) == (5, 3)


@pytest.mark.filterwarnings("ignore:.torch.jit.script.")  # torch's own, at the first use of forward mode
def test_squared_length_and_all_its_derivatives(normal: Normal) -> None:
    x = normal(3, 4, 2, 5).double().contiguous(memory_format=torch.channels_last).requires_grad_()
    expected = torch.stack([sum(v * v for v in sample.flatten()) for sample in x.detach()])
    torch.testing.assert_close(squared_length(x), expected, rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(squared_length, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(squared_length, x)
    along = torch.ones_like(x)

    def curved(function: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.func.jvp(torch.func.grad(lambda v: function(v).sum()), (x.detach(),), (along,))[1]

    torch.testing.assert_close(curved(squared_length), curved(lambda v: (v * v).sum((1, 2, 3))))
    each_sample = torch.func.vmap(lambda v: squared_length(v[None])[0])(x.detach())
    torch.testing.assert_close(each_sample, expected)


def test_squared_length_of_zero_has_a_gradient() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    squared_length(x).sum().backward()
    assert x.grad is not None
    assert x.grad.eq(0).all()


def test_squared_length_of_bfloat16_is_summed_in_float32(normal: Normal) -> None:
    x = normal(2, 64, 56, 56).bfloat16().requires_grad_()
    lengths = squared_length(x)
    assert lengths.dtype == torch.float32
    torch.testing.assert_close(lengths.double(), x.detach().double().square().sum((1, 2, 3)), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(lengths.sum(), x)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient, 2 * x.detach(), rtol=0, atol=0)
