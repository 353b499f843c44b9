"""Seeded tensors, slow arithmetic, and what the methods' own public code gave."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from xaibench.subspace import Basis, MomentAccumulator, make_basis


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="session")
def normal() -> Callable[..., Tensor]:
    """normal(*shape, seed=0) -> standard normal values in float64."""
    return _normal


@pytest.fixture(scope="session")
def orthogonal() -> Callable[..., Tensor]:
    """orthogonal(k, seed=0) -> an orthogonal k x k matrix in float64."""

    def draw(k: int, seed: int = 0) -> Tensor:
        return torch.linalg.qr(_normal(k, k, seed=seed)).Q

    return draw


@pytest.fixture(scope="session")
def softmax() -> Callable[[list[float]], list[float]]:
    """softmax(z) of one row, number by number."""

    def slow(z: list[float]) -> list[float]:
        powers = [math.exp(v) for v in z]
        return [power / sum(powers) for power in powers]

    return slow


@pytest.fixture(scope="session")
def kl() -> Callable[[list[float], list[float]], float]:
    """kl(q, p) = sum q log q/p of two distributions, in nats."""

    def slow(q: list[float], p: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(q, p))

    return slow


@pytest.fixture(scope="session")
def expected(golden: Path) -> Callable[[str], dict[str, float]]:
    """expected(stem) -> the values in golden/STEM.json."""
    return lambda stem: json.loads((golden / f"{stem}.json").read_text())


@pytest.fixture(scope="session")
def public(golden: Path) -> dict[str, Tensor]:
    """The tensors on which subdistill.json and repdistiller.json were computed."""
    return {name: torch.tensor(values) for name, values in np.load(golden / "subdistill.npz").items()}


@pytest.fixture(scope="session")
def cells(golden: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Student's and teacher's local logits (8, 100, 21) and the labels of icd_sdd.json."""
    arrays = np.load(golden / "icd_sdd.npz")
    names = ("student_local_logits", "teacher_local_logits", "targets")
    return tuple(torch.tensor(arrays[name]) for name in names)  # type: ignore[return-value]


@pytest.fixture(scope="session")
def teacher_maps() -> Callable[..., Tensor]:
    """teacher_maps(seed=0, side=4) -> maps (5, 6, side, side) off zero, some channels livelier than others."""

    def draw(seed: int = 0, side: int = 4) -> Tensor:
        return _normal(5, 6, side, side, seed=seed) * torch.linspace(0.2, 2, 6)[:, None, None] + 1

    return draw


@pytest.fixture(scope="session")
def basis_of() -> Callable[..., Basis]:
    """basis_of(maps, kind="prcaposdef", k=4): measured on these very maps, so that mean and energy are theirs."""

    def measure(maps: Tensor, kind: str = "prcaposdef", k: int = 4) -> Basis:
        sums = MomentAccumulator(maps.shape[1])
        rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
        sums.update(rows, _normal(*rows.shape, seed=99))
        return make_basis(sums.result(), kind, k)

    return measure
