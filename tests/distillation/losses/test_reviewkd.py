from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from xaibench.distillation.losses.reviewkd import Fusion, ReviewLoss, hierarchical_context
from xaibench.errors import ConfigError

Normal = Callable[..., Tensor]
STUDENT, TEACHER = [(3, 8, 8), (4, 4, 4), (5, 2, 2)], [(6, 8, 8), (7, 4, 4), (8, 4, 4)]


def make() -> ReviewLoss:
    torch.manual_seed(0)
    return ReviewLoss(TEACHER, STUDENT).double()


@pytest.fixture(scope="module")
def maps(normal: Normal) -> Callable[..., tuple[list[Tensor], list[Tensor]]]:
    def draw(b: int = 5, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
        return tuple(  # type: ignore[return-value]
            [normal(b, *shape, seed=seed + 10 * role + i) for i, shape in enumerate(shapes)]
            for role, shapes in enumerate((STUDENT, TEACHER))
        )

    return draw


def ramp(shape: torch.Size) -> Tensor:
    """The weights with which the public code was run."""
    n = shape.numel()
    return (torch.sin(torch.arange(n, dtype=torch.float64) + 1).reshape(shape) / (n / shape[0]) ** 0.5).float()


@pytest.mark.parametrize(("training", "key"), [(True, "reviewkd_training"), (False, "reviewkd_evaluation")])
def test_the_loss_is_the_public_codes(public: dict[str, Tensor], expected, training: bool, key: str) -> None:  # type: ignore[no-untyped-def]
    small, large, teacher = (public[name] for name in ("student_feats", "student_feats_10x10", "teacher_feats"))
    loss = ReviewLoss([(24, 5, 5), (24, 5, 5)], [(8, 10, 10), (8, 5, 5)]).train(training)
    for module in loss.modules():
        if isinstance(module, nn.Conv2d):
            for parameter in module.parameters():
                nn.init.zeros_(parameter).data.add_(ramp(parameter.shape))
    value = loss([large, small], [teacher, teacher.flip(1)])
    assert value.mean().item() == pytest.approx(expected("rivals")[key], rel=1e-5)


def test_the_errors_at_several_sizes_are_the_public_codes(public: dict[str, Tensor], expected) -> None:  # type: ignore[no-untyped-def]
    small, large = public["student_feats"], public["student_feats_10x10"]
    values = hierarchical_context(small, public["teacher_feats"][:, :8]), hierarchical_context(large, large.flip(0))
    want = expected("rivals")
    assert [v.mean().item() for v in values] == pytest.approx([want["hcl_5x5"], want["hcl_10x10"]], rel=1e-5)


@pytest.mark.parametrize(("side", "sizes"), [(8, (4, 2, 1)), (4, (2, 1)), (2, (1,)), (1, ())])
def test_errors_are_weighted_by_halves(normal: Normal, side: int, sizes: tuple[int, ...]) -> None:
    student, teacher = normal(3, 2, side, side), normal(3, 2, side, side, seed=1)
    have = hierarchical_context(student, teacher)
    for b in range(3):
        total, weights = 0.0, 0.0
        for i, size in enumerate((side, *sizes)):
            cell = side // size
            difference = (student - teacher)[b].reshape(2, size, cell, size, cell).mean((2, 4)).flatten().tolist()
            total += 0.5**i * sum(d * d for d in difference) / len(difference)
            weights += 0.5**i
        assert have[b].item() == pytest.approx(total / weights, rel=1e-10)


def slow_nearest(maps: Tensor, h: int, w: int) -> Tensor:
    rows = [i * maps.shape[2] // h for i in range(h)]
    columns = [j * maps.shape[3] // w for j in range(w)]
    return maps[:, :, rows][:, :, :, columns]


def test_a_fusion_weighs_its_own_maps_and_the_deeper_ones_at_each_location(normal: Normal) -> None:
    torch.manual_seed(0)
    fusion = Fusion((3, 4, 4), (6, 8, 8), 5, deepest=False).double()
    maps, deeper = normal(2, 3, 4, 4), normal(2, 5, 2, 2, seed=1)
    have, handed_on = fusion(maps, deeper)
    own, other = fusion.enter(maps), slow_nearest(deeper, 4, 4)
    logits = torch.einsum("oc,bchw->bohw", fusion.attention[0].weight[:, :, 0, 0], torch.cat([own, other], 1))  # type: ignore[index]
    share = 1 / (1 + torch.exp(-logits - fusion.attention[0].bias[:, None, None]))  # type: ignore[index]
    want = slow_nearest(own * share[:, :1] + other * share[:, 1:], 8, 8)
    assert torch.allclose(handed_on, want)
    assert torch.allclose(have, fusion.leave(want))
    assert have.shape == (2, 6, 8, 8)


def test_every_level_counts_once_and_deep_layers_reach_the_shallow_ones(maps) -> None:  # type: ignore[no-untyped-def]
    loss = make().eval()
    student, teacher = maps()
    given = [h.requires_grad_() for h in student]
    value = loss(given, teacher)
    assert value.shape == (5,)
    assert len(loss.fusions) == 4  # three pairs and the pooled last one
    targets = [t.clone() for t in teacher]
    targets[0] += 1  # only the shallowest teacher layer moves, yet the deepest student layer's gradient does
    first, second = (torch.autograd.grad(loss(given, t).sum(), given[-1])[0] for t in (teacher, targets))
    assert not torch.allclose(first, second)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 999), order=st.permutations(range(5)))
def test_the_order_of_the_batch_only_orders_the_losses(maps, seed: int, order: list[int]) -> None:  # type: ignore[no-untyped-def]
    loss = make()
    student, teacher = maps(seed=seed)
    want = loss(student, teacher)
    assert torch.allclose(loss([h[order] for h in student], [h[order] for h in teacher]), want[order], rtol=1e-8)


def test_all_that_is_learned_learns(maps) -> None:  # type: ignore[no-untyped-def]
    loss = make()
    student, teacher = maps()
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-2)
    start = loss(student, teacher).mean().item()
    for _ in range(20):
        optimizer.zero_grad()
        loss(student, teacher).mean().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in loss.parameters())
        optimizer.step()
    assert loss(student, teacher).mean().item() < 0.8 * start


def test_gradients(maps) -> None:  # type: ignore[no-untyped-def]
    loss = make()
    student, teacher = maps(3)
    assert torch.autograd.gradcheck(lambda h: loss([*student[:2], h], teacher), student[2].requires_grad_())


def test_mixed_precision_keeps_the_loss_in_float32(maps) -> None:  # type: ignore[no-untyped-def]
    loss = make().float()
    student, teacher = ([h.float() for h in part] for part in maps())
    exact = loss(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = loss([h.bfloat16() for h in student], [h.bfloat16() for h in teacher])
    assert rough.dtype == torch.float32
    assert torch.allclose(rough, exact, rtol=5e-2)


def test_what_does_not_fit_is_refused(maps) -> None:  # type: ignore[no-untyped-def]
    student, teacher = maps()
    with pytest.raises(ConfigError, match=r"ReviewKD: student \(5, 8, 1, 1\) and teacher \(4, 8, 1, 1\) must agree"):
        make()(student, [h[:4] for h in teacher])
