from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xaibench.errors import DataError
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import state_hash
from xaibench.similarity.nulls import derangement, randomised, shifted


@given(n=st.integers(2, 60), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_a_derangement_uses_each_image_once_and_never_its_own(n: int, seed: int) -> None:
    partner = derangement(n, seed)
    assert sorted(partner) == list(range(n))
    assert (partner != np.arange(n)).all()
    np.testing.assert_array_equal(derangement(n, seed), partner)


def test_all_partners_are_equally_likely() -> None:
    counts = np.bincount([derangement(5, seed)[0] for seed in range(1000)], minlength=5)
    assert counts[0] == 0
    assert (np.abs(counts[1:] - 250) < 60).all()


@pytest.mark.parametrize("n", [0, 1])
def test_a_single_image_has_no_partner(n: int) -> None:
    with pytest.raises(DataError, match=f"at least 2 images, got {n}"):
        derangement(n)


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_shifted_maps_keep_their_cells_and_their_neighbours(seed: int) -> None:
    maps = np.random.default_rng(seed).standard_normal((3, 4, 6))
    moved = shifted(maps, seed)
    np.testing.assert_array_equal(np.sort(moved.reshape(3, -1)), np.sort(maps.reshape(3, -1)))
    for one, other in zip(maps, moved):  # the spectrum of a cyclic shift and mirroring
        spectra = (np.sort(np.abs(np.fft.fft2(m)).ravel()) for m in (one, other))
        np.testing.assert_allclose(*spectra, atol=1e-9)
    np.testing.assert_array_equal(shifted(maps[:2], seed), moved[:2])


def test_every_shift_is_equally_likely() -> None:
    one = np.zeros((3000, 3, 4))
    one[:, 0, 0] = 1
    counts = shifted(one).sum(axis=0)
    assert np.abs(counts - 250).max() < 65


@pytest.fixture
def trained() -> nn.Module:
    model = build_model("resnet18-cifar:4-6-8-8@4", 3)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.add_(1.0)
    return model.train()


def test_everything_learned_is_gone_and_the_model_untouched(trained: nn.Module) -> None:
    before, seen = state_hash(trained), torch.random.get_rng_state()
    fresh = randomised(trained, seed=3)
    assert state_hash(trained) == before
    assert trained.training
    assert torch.equal(torch.random.get_rng_state(), seen)
    assert not any(module.training for module in fresh.modules())
    for (name, old), new in zip(trained.named_parameters(), fresh.parameters()):
        assert old.shape == new.shape, name
        assert not torch.equal(old, new), name
    for name, value in fresh.named_buffers():
        expected = torch.ones_like(value) if name.endswith("running_var") else torch.zeros_like(value)
        assert torch.equal(value, expected), name
    assert torch.isfinite(fresh(torch.randn(2, 3, 12, 12))).all()


def test_one_seed_one_model(trained: nn.Module) -> None:
    assert state_hash(randomised(trained, 1)) == state_hash(randomised(trained, 1))
    assert state_hash(randomised(trained, 1)) != state_hash(randomised(trained, 2))


def test_parameters_without_a_reset_keep_only_their_mean_and_spread() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.linspace(4, 6, 2000), requires_grad=False)
            self.single = nn.Parameter(torch.tensor(2.0))

    fresh = randomised(Token())
    old = torch.linspace(4, 6, 2000)
    assert not torch.equal(fresh.token, old)
    assert float(fresh.token.mean()) == pytest.approx(5, abs=0.1)
    assert float(fresh.token.std()) == pytest.approx(float(old.std()), rel=0.1)
    assert fresh.single.item() == 2.0
    assert not fresh.token.requires_grad
