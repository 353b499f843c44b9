from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.errors import ConfigError, ModelError, UnknownNameError
from xaibench.subspace import BASES, Basis, LayerMoments, MomentAccumulator, make_basis
from xaibench.subspace.bases import prcaposdef_matrix


def measure(a: Tensor, c: Tensor) -> LayerMoments:
    sums = MomentAccumulator(a.shape[1])
    sums.update(a, c)
    return sums.result()


def data(seed: int = 0, n: int = 50, d: int = 6, relation: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.linspace(0.3, 2, d) + 1
    c = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.linspace(1, 0.1, d) + relation * a
    return a, c


def projector(basis: Basis) -> Tensor:
    return basis.vectors @ basis.vectors.T


@pytest.fixture(scope="module")
def public(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "subdistill.npz"))


@pytest.fixture(scope="module")
def public_moments(public: dict[str, np.ndarray]) -> LayerMoments:
    sums = MomentAccumulator(24)
    for a, c in zip(torch.tensor(public["act"]).split(7), torch.tensor(public["ctx"]).split(7)):
        sums.update(a.permute(0, 2, 1).reshape(-1, 24), c.permute(0, 2, 1).reshape(-1, 24))
    return sums.result()


@pytest.mark.parametrize("kind", ["prcaposdef", "pca", "gradpca", "prca"])
def test_subspaces_and_energies_of_the_public_code(
    public: dict[str, np.ndarray], public_moments: LayerMoments, kind: str
) -> None:
    np.testing.assert_allclose(public_moments.mean, public["mean"], rtol=1e-9, atol=1e-12)
    basis = make_basis(public_moments, kind, 8)
    np.testing.assert_allclose(projector(basis), public[f"{kind}_projector_k8"], rtol=1e-5, atol=1e-9)
    for k in (1, 8, 24):
        energy = make_basis(public_moments, kind, k).energy
        assert energy == pytest.approx(public[f"{kind}_scale_factors"][:k].sum(), rel=1e-9)


def slow_matrix(a: Tensor, c: Tensor, beta: float) -> np.ndarray:
    """The mean of outer products of s a + beta c / s, plus s^2 C_a + beta^2 C_c / s^2, sample by sample."""
    rows, grads = (a - a.mean(0)).numpy(), c.numpy()
    n = len(rows)
    t_a = sum((row**2).sum() for row in rows) / n
    t_c = sum((grad**2).sum() for grad in grads) / n
    s = (t_c / t_a) ** 0.25
    total = np.zeros((rows.shape[1],) * 2)
    for row, grad in zip(rows, grads):
        both = s * row + beta * grad / s
        total += np.outer(both, both) + np.outer(s * row, s * row) + np.outer(beta * grad / s, beta * grad / s)
    return total / n


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 4.0])
def test_the_positive_definite_matrix_is_the_definition(beta: float) -> None:
    a, c = data()
    np.testing.assert_allclose(prcaposdef_matrix(measure(a, c), beta), slow_matrix(a, c, beta), rtol=1e-9)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 999),
    beta=st.floats(0, 1e3),
    relation=st.floats(-100, 100),
    n=st.integers(3, 20),
)
def test_the_matrix_is_positive_semidefinite_for_any_beta(seed: int, beta: float, relation: float, n: int) -> None:
    values = torch.linalg.eigvalsh(prcaposdef_matrix(measure(*data(seed, n, relation=relation)), beta))
    assert values.min() >= -1e-9 * values.max()


def test_prca_itself_is_not_positive_semidefinite() -> None:
    m = measure(*data(relation=-0.5))
    assert torch.linalg.eigvalsh(m.cross + m.cross.T).min() < 0


def test_beta_zero_is_pca_and_a_large_beta_is_gradient_pca() -> None:
    m = measure(*data())
    for beta, kind in ((0.0, "pca"), (1e9, "gradpca")):
        have, want = make_basis(m, "prcaposdef", 3, beta=beta), make_basis(m, kind, 3)
        assert torch.allclose(projector(have), projector(want), atol=1e-6)


def numpy_basis(m: LayerMoments, kind: str, k: int) -> np.ndarray:
    cross = (m.cross + m.cross.T).numpy()
    matrix = {"pca": m.activation, "pca_reversed": m.activation, "gradpca": m.gradient}.get(kind, torch.tensor(cross))
    values, vectors = np.linalg.eigh(matrix.numpy())
    order = {"pca_reversed": values, "prca_abs": -abs(values)}.get(kind, -values)
    return vectors[:, np.argsort(order)[:k]]


@pytest.mark.parametrize("kind", ["pca", "pca_reversed", "gradpca", "prca", "prca_abs"])
@pytest.mark.parametrize("relation", [0.5, -0.5, 0.0])
def test_eigenvector_bases_come_in_the_right_order(kind: str, relation: float) -> None:
    m = measure(*data(relation=relation))
    for k in (1, 3, 6):
        want = numpy_basis(m, kind, k)
        np.testing.assert_allclose(projector(make_basis(m, kind, k)), want @ want.T, atol=1e-9)


def test_random_is_orthogonal_and_seeded_and_identity_takes_the_first() -> None:
    m = measure(*data())
    one, same, other = (make_basis(m, "random", 4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.vectors, same.vectors)
    assert not torch.allclose(projector(one), projector(other))
    assert torch.equal(make_basis(m, "identity", 2).vectors, torch.eye(6, dtype=torch.float64)[:, :2])


@settings(deadline=None, max_examples=25)
@given(kind=st.sampled_from(sorted(BASES)), k=st.integers(1, 6), seed=st.integers(0, 99))
def test_every_basis_is_orthonormal_with_the_energy_of_its_projection(kind: str, k: int, seed: int) -> None:
    a, c = data(seed)
    basis = make_basis(measure(a, c), kind, k, seed=seed)
    assert torch.allclose(basis.vectors.T @ basis.vectors, torch.eye(k, dtype=torch.float64), atol=1e-10)
    projected = (a - a.mean(0)) @ basis.vectors
    assert basis.energy == pytest.approx(projected.square().sum(1).mean().item(), rel=1e-9)
    assert basis.share == pytest.approx(basis.energy / (a - a.mean(0)).square().sum(1).mean().item(), rel=1e-9)
    assert 0 < basis.share <= 1 + 1e-12


def test_project_is_the_formula_at_every_location() -> None:
    basis = make_basis(measure(*data()), "prcaposdef", 3)
    h = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    have = basis.project(h)
    for b in range(2):
        for i in range(3):
            for j in range(4):
                want = basis.vectors.T @ (h[b, :, i, j] - basis.mean)
                assert torch.allclose(have[b, :, i, j], want, atol=1e-12)
    assert basis.project(h.float()).dtype == torch.float32


def test_impossible_subspaces_are_refused() -> None:
    m = measure(*data())
    for k in (0, 7):
        with pytest.raises(ConfigError, match=f"a subspace of {k} dimensions does not fit into 6 teacher channels"):
            make_basis(m, "pca", k)
    with pytest.raises(UnknownNameError, match="unknown basis 'prcaposdf': did you mean 'prcaposdef'"):
        make_basis(m, "prcaposdf", 2)
    for beta in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="beta must be at least 0, got"):
            make_basis(m, "prcaposdef", 2, beta=beta)


def test_a_dead_layer_is_refused() -> None:
    a, c = data()
    with pytest.raises(ModelError, match="the layer's activations do not vary"):
        make_basis(measure(torch.ones_like(a), c), "prcaposdef", 2)
    with pytest.raises(ModelError, match="the layer's gradients do not vary"):
        make_basis(measure(a, torch.zeros_like(c)), "prcaposdef", 2)
    with pytest.raises(ModelError, match="the pca subspace of 2 dimensions holds no activation"):
        make_basis(measure(torch.ones_like(a), c), "pca", 2)
    a[:, 0] = 1
    with pytest.raises(ModelError, match="the identity subspace of 1 dimensions holds no activation"):
        make_basis(measure(a, c), "identity", 1)
