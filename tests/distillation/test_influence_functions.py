from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.influence._core.influence_function import NaiveInfluenceFunction
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import TensorDataset

from xaibench.data.images import Preprocessing
from xaibench.distillation.criterion import Batch, Setting
from xaibench.distillation.influence_functions import (
    Batches,
    Params,
    Problem,
    gauss_newton_product,
    influence_scores,
    influence_weights,
    mean_gradient,
    solve,
)
from xaibench.distillation.losses.kd import cross_entropy, kd
from xaibench.distillation.methods import SubDistill
from xaibench.errors import ConfigError, DataError
from xaibench.models.architectures import build_model
from xaibench.models.layer_outputs import Outputs, forward_with_layers, tapped
from xaibench.models.pair import ModelPair
from xaibench.subspace import collect_moments

N, BATCH = 13, 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def in_batches(x: Tensor, extra: Any, size: int) -> Batches:
    """The samples in batches of `size`; `extra` is a tensor or a dict of tensors."""

    def chosen(part: slice) -> Any:
        return {k: v[part] for k, v in extra.items()} if isinstance(extra, dict) else extra[part]

    return lambda: [(x[i : i + size], chosen(slice(i, i + size))) for i in range(0, len(x), size)]


def parameters(model: nn.Module) -> Params:
    return {name: p.detach() for name, p in model.named_parameters()}


def flat(params: Params) -> Tensor:
    return torch.cat([p.flatten() for p in params.values()])


class Case:
    """A tiny MLP in float64 whose losses read logits and a hidden layer, and everything about it by brute force."""

    def __init__(self) -> None:
        random = seeded()
        self.params = {
            "w": torch.randn(3, 4, generator=random, dtype=torch.float64),
            "v": torch.randn(4, 3, generator=random, dtype=torch.float64),
            "b": torch.randn(3, generator=random, dtype=torch.float64),
        }
        self.x = torch.randn(N, 3, generator=random, dtype=torch.float64)
        teacher = torch.randn(N, 3, generator=random, dtype=torch.float64)
        target = torch.randn(N, 4, generator=random, dtype=torch.float64)
        self.extra = {"teacher": teacher, "target": target}
        self.problem = Problem(self.outputs, self.losses)
        self.batches = in_batches(self.x, self.extra, BATCH)
        self.gradient = {k: torch.randn(v.shape, generator=random).double() for k, v in self.params.items()}
        self.curvature = self._curvature()

    @staticmethod
    def outputs(params: Params, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(x @ params["w"])
        return {"logits": hidden @ params["v"] + params["b"], "hidden": hidden}

    @staticmethod
    def losses(outputs: dict[str, Tensor], extra: dict[str, Tensor]) -> Tensor:
        hint = (outputs["hidden"] - extra["target"]).square().sum(1)
        return kd(outputs["logits"], extra["teacher"], 2.0) + 0.3 * hint

    def _vector_of(self, params: Tensor, i: int) -> Tensor:
        parts = params.split([p.numel() for p in self.params.values()])
        named = {k: part.view_as(p) for (k, p), part in zip(self.params.items(), parts)}
        outputs = self.outputs(named, self.x[i : i + 1])
        return torch.cat([outputs["logits"][0], outputs["hidden"][0]])

    def _loss_of(self, vector: Tensor, i: int) -> Tensor:
        log_p = torch.log(torch.softmax(vector[:3] / 2, 0))
        q = torch.softmax(self.extra["teacher"][i] / 2, 0)
        return 4 * (q * (q.log() - log_p)).sum() + 0.3 * ((vector[3:] - self.extra["target"][i]) ** 2).sum()

    def _curvature(self) -> Tensor:
        total = torch.zeros(27, 27, dtype=torch.float64)
        for i in range(N):
            at = self._vector_of(flat(self.params), i)
            jacobian = torch.autograd.functional.jacobian(lambda p, i=i: self._vector_of(p, i), flat(self.params))
            hessian = torch.autograd.functional.hessian(lambda o, i=i: self._loss_of(o, i), at)
            total += jacobian.T @ hessian @ jacobian
        return total / N

    def sample_gradient(self, i: int) -> Tensor:
        return torch.autograd.functional.jacobian(lambda p: self._loss_of(self._vector_of(p, i), i), flat(self.params))


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_products_with_the_gauss_newton_matrix_are_those_of_the_dense_one(case: Case) -> None:
    product = gauss_newton_product(case.problem, case.params, case.batches, case.gradient)
    torch.testing.assert_close(flat(product), case.curvature @ flat(case.gradient), rtol=1e-10, atol=1e-12)
    assert {k: v.shape for k, v in product.items()} == {k: v.shape for k, v in case.params.items()}


def test_the_mean_gradient_is_the_mean_of_the_gradients(case: Case) -> None:
    dense = torch.stack([case.sample_gradient(i) for i in range(N)]).mean(0)
    torch.testing.assert_close(
        flat(mean_gradient(case.problem, case.params, case.batches)), dense, rtol=1e-10, atol=1e-12
    )


def test_the_solution_is_that_of_the_dense_system(case: Case) -> None:
    solution = solve(
        case.problem, case.params, case.batches, case.gradient, damping=0.003, iterations=200, tolerance=1e-13
    )
    g = flat(case.gradient)
    shift = 0.003 * (case.curvature @ g).norm() / g.norm()
    assert solution.damping == pytest.approx(shift.item(), rel=1e-12)
    dense = torch.linalg.solve(case.curvature + shift * torch.eye(len(g), dtype=g.dtype), g)
    assert (flat(solution.vector) - dense).norm() < 1e-8 * dense.norm()
    assert solution.residual <= 1e-13
    scores = influence_scores(case.problem, case.params, case.batches, solution.vector)
    expected = torch.stack([-case.sample_gradient(i) @ dense for i in range(N)])
    torch.testing.assert_close(scores, expected, rtol=1e-8, atol=1e-10)


def test_the_solve_ends_at_its_tolerance_or_its_last_step_and_reports_which(case: Case) -> None:
    steps: list[int] = []
    options = {"iterations": 3, "tolerance": 0.0, "advance": lambda: steps.append(1)}
    short = solve(case.problem, case.params, case.batches, case.gradient, **options)
    assert (short.iterations, len(steps)) == (3, 3)
    g = flat(case.gradient)
    rest = case.curvature @ flat(short.vector) + short.damping * flat(short.vector) - g
    assert short.residual == pytest.approx((rest.norm() / g.norm()).item(), rel=1e-9)
    loose = solve(case.problem, case.params, case.batches, case.gradient, tolerance=0.5)
    tight = solve(case.problem, case.params, case.batches, case.gradient, tolerance=0.05)
    assert 0.05 < loose.residual <= 0.5
    assert tight.residual <= 0.05
    assert loose.iterations < tight.iterations <= 20


def test_neither_the_batches_nor_the_order_of_the_samples_matter(case: Case) -> None:
    order = torch.randperm(N, generator=seeded(1))
    shuffled = {k: v[order] for k, v in case.extra.items()}
    variants = [case.batches, in_batches(case.x, case.extra, N), in_batches(case.x[order], shuffled, 4)]
    results = []
    for batches in variants:
        gradient = mean_gradient(case.problem, case.params, batches)
        vector = solve(case.problem, case.params, batches, gradient, tolerance=1e-6, iterations=100).vector
        results.append(influence_scores(case.problem, case.params, batches, vector))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(results[2], results[0][order], rtol=1e-4, atol=1e-8)
    assert not torch.allclose(results[2], results[0])


def test_what_is_differentiated_is_left_alone(case: Case) -> None:
    params = {k: v.clone().requires_grad_() for k, v in case.params.items()}
    gradient = mean_gradient(case.problem, params, case.batches)
    solution = solve(case.problem, params, case.batches, gradient)
    scores = influence_scores(case.problem, params, case.batches, solution.vector)
    assert not scores.requires_grad
    for name, p in params.items():
        assert p.grad is None
        assert not solution.vector[name].requires_grad
        assert torch.equal(p, case.params[name])


def sample_gradients(problem: Problem, params: Params, batches: Batches) -> Tensor:
    """All gradients, one a sample, by torch.func: (n, parameters)."""

    def loss(p: Params, x: Tensor, extra: Any) -> Tensor:
        one = {k: v[None] for k, v in extra.items()}
        return problem.losses(problem.outputs(p, x[None]), one)[0]

    return torch.cat(
        [
            torch.cat([g.flatten(1) for g in vmap(grad(loss), (None, 0, 0))(params, x, extra).values()], 1)
            for x, extra in batches()
        ]
    )


@pytest.mark.parametrize("pooling", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2)])
def test_scores_of_a_convolutional_student_are_those_of_its_sample_gradients(pooling: nn.Module) -> None:
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, (12, 12))
    teacher, student = (build_model(f"resnet18-cifar:{widths}", 3) for widths in ("16-16-20-20@16", "16-16-16-16@16"))
    student.maxpool = pooling
    pair = ModelPair.create(teacher, student, classes=("a", "b", "c"), preprocessing=preprocessing)
    x = torch.randn(6, 3, 12, 12, generator=seeded())
    pair.student(x)  # fills the running statistics
    pair.student.eval()
    labels = torch.arange(6) % 3
    setting = Setting(pair, x[:2], lambda: collect_moments(pair.teacher, pair.teacher_layers, [x]), labels)
    criterion = SubDistill(task_weight=1.0).build(setting).eval()

    def outputs(params: Params, x: Tensor) -> dict[str, Tensor]:
        with tapped(pair.student, pair.student_layers) as layers:
            return {"logits": functional_call(pair.student, params, (x,)), **layers}

    def losses(outputs: dict[str, Tensor], extra: dict[str, Tensor]) -> Tensor:
        summary = {k: v for k, v in extra.items() if k != "labels"}
        batch = Batch(torch.arange(len(extra["labels"])), extra["labels"], 0)
        return criterion(Outputs(outputs["logits"], outputs), summary, batch)[0]

    with torch.no_grad():
        summary = criterion.summarise(forward_with_layers(pair.teacher, x, pair.teacher_layers))
    batches = in_batches(x.contiguous(memory_format=torch.channels_last), {**summary, "labels": labels}, 4)
    problem, params = Problem(outputs, losses), parameters(pair.student)
    gradients = sample_gradients(problem, params, batches)
    gradient = mean_gradient(problem, params, batches)
    torch.testing.assert_close(flat(gradient), gradients.mean(0), rtol=1e-3, atol=1e-5 * gradients.abs().max().item())
    solution = solve(problem, params, batches, gradient, iterations=5)
    scores = influence_scores(problem, params, batches, solution.vector)
    expected = -gradients @ flat(solution.vector)
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert all(p.grad is None for p in pair.student.parameters())


class Blobs:
    """Three noisy groups of points, some of the training labels wrong, and an MLP trained on them."""

    def __init__(self, flipped: float, spread: float, epochs: int, n: int = 200) -> None:
        random = seeded()
        centres = 2 * torch.randn(3, 8, generator=random)
        self.x, true = self._draw(centres, spread, n, random)
        self.validation = self._draw(centres, spread, 120, random)
        self.flipped = torch.rand(n, generator=random) < flipped
        self.labels = torch.where(self.flipped, (true + 1) % 3, true)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
        optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02, weight_decay=1e-3)
        for _ in range(epochs):
            optimizer.zero_grad()
            F.cross_entropy(self.model(self.x), self.labels).backward()
            optimizer.step()
        self.model.zero_grad()
        self.params = parameters(self.model)
        self.problem = Problem(lambda p, x: functional_call(self.model, p, (x,)), cross_entropy)

    @staticmethod
    def _draw(centres: Tensor, spread: float, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.arange(n) % 3
        return centres[labels] + spread * torch.randn(n, 8, generator=random), labels

    def solution_and_scores(self, **options: Any) -> tuple[Any, Tensor]:
        training = in_batches(self.x, self.labels, 64)
        gradient = mean_gradient(self.problem, self.params, in_batches(*self.validation, 64))
        solution = solve(self.problem, self.params, training, gradient, **options)
        return solution, influence_scores(self.problem, self.params, training, solution.vector)


def tiny_mlp(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


@pytest.mark.parametrize("options", [{}, {"iterations": 300, "tolerance": 1e-8}])
def test_captum_ranks_the_samples_alike(options: dict[str, float]) -> None:
    """A student that has nearly learned its (noisy) teacher: there the Hessian that captum takes is close to G."""
    random, n = seeded(), 200
    x, unseen = (torch.randn(m, 4, generator=random, dtype=torch.float64) for m in (n, 100))
    teacher, student = tiny_mlp(1), tiny_mlp(2)
    with torch.no_grad():
        soft = 3 * teacher(x) + 0.3 * torch.randn(n, 3, generator=random, dtype=torch.float64)
        labels = torch.multinomial((3 * teacher(unseen)).softmax(1), 1, generator=random).squeeze(1)
    optimizer = torch.optim.LBFGS(student.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = kd(student(x), soft, 1.0).mean()
        loss.backward()
        return loss

    before, after = optimizer.step(closure), closure()
    assert after < 0.1 * before
    student.zero_grad()

    def outputs(params: Params, x: Tensor) -> Tensor:
        return functional_call(student, params, (x,))

    def own_loss(logits: Tensor, soft: Tensor) -> Tensor:
        return kd(logits, soft, 1.0)

    own_loss.reduction = "none"  # type: ignore[attr-defined]  # captum asks for it
    own, validation = Problem(outputs, own_loss), Problem(outputs, cross_entropy)
    params, training = parameters(student), in_batches(x, soft, 64)
    gradient = mean_gradient(validation, params, in_batches(unseen, labels, 64))
    solution = solve(own, params, training, gradient, **options)  # type: ignore[arg-type]
    theirs = NaiveInfluenceFunction(
        copy.deepcopy(student),
        TensorDataset(x, soft),
        checkpoint="",
        checkpoints_load_func=lambda model, path: 1.0,
        loss_fn=own_loss,
        test_loss_fn=nn.CrossEntropyLoss(reduction="none"),
        batch_size=n,
        projection_dim=flat(params).numel(),
        hessian_reg=n * solution.damping,  # captum adds it to the Hessian of the *summed* loss
        hessian_inverse_tol=0.0,
    )
    helpfulness = theirs.influence((unseen, labels)).mean(0)
    scores = influence_scores(own, params, training, solution.vector)
    assert spearmanr(scores, -helpfulness).statistic > 0.99
    assert spearmanr(scores, own_loss(student(x), soft).detach()).statistic < 0.9  # no mere ranking by loss


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_flipped_labels_are_found_and_weighted_down(temperature: float) -> None:
    blobs = Blobs(flipped=0.2, spread=1.0, epochs=150)
    blobs.problem = Problem(blobs.problem.outputs, lambda z, y: cross_entropy(z / temperature, y))
    _, scores = blobs.solution_and_scores()
    weights = influence_weights(scores)
    assert weights[blobs.flipped].mean() < 0.9
    assert weights[~blobs.flipped].mean() > 1
    assert roc_auc_score(blobs.flipped, scores) > 0.8
    assert influence_weights(scores, transform="exp_minmax")[blobs.flipped].mean() > 1  # the public code's sign


def test_negative_curvature_ends_the_solve_with_what_it_has() -> None:
    problem = Problem(lambda p, x: x * p["w"], lambda o, _: -o.square().sum(1))
    batches = in_batches(torch.ones(4, 2), torch.zeros(4), 4)
    gradient = {"w": torch.tensor([1.0, 1.0])}
    solution = solve(problem, {"w": torch.ones(2)}, batches, gradient, damping=0.5)
    assert (solution.iterations, solution.residual, solution.damping) == (0, 1.0, 1.0)
    torch.testing.assert_close(solution.vector, gradient)  # g / lambda


def test_a_zero_gradient_and_a_zero_curvature_have_solutions_too(case: Case) -> None:
    zero = {k: torch.zeros_like(v) for k, v in case.params.items()}
    solution = solve(case.problem, case.params, case.batches, zero)
    assert (solution.iterations, solution.residual) == (0, 0.0)
    assert not flat(solution.vector).any()
    linear = Problem(lambda p, x: x * p["w"], lambda o, _: o.sum(1))
    batches = in_batches(torch.ones(4, 2), torch.zeros(4), 4)
    gradient = {"w": torch.tensor([1.0, 3.0])}
    solution = solve(linear, {"w": torch.ones(2)}, batches, gradient, damping=0.5)
    torch.testing.assert_close(solution.vector["w"], gradient["w"] / 0.5)
    assert solution.residual < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "damping of the influence solve must be above 0, got 0.0"),
        ({"damping": -1.0}, "damping of the influence solve must be above 0, got -1.0"),
        ({"damping": math.nan}, "damping of the influence solve must be above 0, got nan"),
        ({"iterations": 0}, "iterations of the influence solve must be above 0, got 0"),
        ({"tolerance": -0.1}, "tolerance of the influence solve must be at least 0, got -0.1"),
    ],
)
def test_options_out_of_range_are_refused(case: Case, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        solve(case.problem, case.params, case.batches, case.gradient, **options)


def test_values_that_are_not_finite_are_refused(case: Case) -> None:
    broken = {**case.gradient, "b": torch.full((3,), math.nan, dtype=torch.float64)}
    with pytest.raises(DataError, match="the validation gradient is not finite"):
        solve(case.problem, case.params, case.batches, broken)
    params = {**case.params, "b": broken["b"]}
    with pytest.raises(DataError, match="the Gauss-Newton product is not finite at step 1"):
        solve(case.problem, params, case.batches, case.gradient)


@pytest.mark.parametrize(
    "compute",
    [
        lambda problem, case, batches: mean_gradient(problem, case.params, batches),
        lambda problem, case, batches: gauss_newton_product(problem, case.params, batches, case.gradient),
        lambda problem, case, batches: influence_scores(problem, case.params, batches, case.gradient),
    ],
)
def test_losses_that_are_not_one_a_sample_and_empty_batches_are_refused(
    case: Case, compute: Callable[[Problem, Case, Batches], Any]
) -> None:
    averaged = Problem(case.outputs, lambda outputs, extra: case.losses(outputs, extra).mean())
    with pytest.raises(DataError, match=r"one loss a sample, \(5,\), got \(\): do not average the losses"):
        compute(averaged, case, case.batches)
    with pytest.raises(DataError, match="no samples to compute influences from"):
        compute(case.problem, case, list)
