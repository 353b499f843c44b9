from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from xaibench.data.tasks import Task
from xaibench.distillation.criterion import Setting
from xaibench.distillation.distill import DistillRun, distill
from xaibench.distillation.losses.subdistill import Centring
from xaibench.distillation.methods import KD, InfluenceWeighted, StudentOnly, parse_method
from xaibench.distillation.methods.influence import _scaled_as_trained
from xaibench.distillation.recipe import Recipe
from xaibench.errors import ConfigError
from xaibench.models.pair import ModelPair

Evaluate = Callable[..., tuple[Tensor, dict[str, Tensor]]]
Job = Callable[..., DistillRun]
Same = Callable[[DistillRun, DistillRun], None]


@pytest.mark.parametrize("text", ["kd", "subdistill", "kd+at:kd_weight=0", "random-control[kd]", "icd"])
def test_each_sample_counts_by_its_weight(text: str, setting: Setting, evaluate: Evaluate) -> None:
    plain, weighted = (m.build(setting) for m in (parse_method(text), parse_method(f"influence[{text}]")))
    losses, terms = evaluate(plain, setting.pair)
    assert torch.equal(evaluate(weighted, setting.pair)[0], losses)  # all weights are 1 to begin with
    weights = torch.linspace(0.2, 3, len(setting.labels))
    weighted.sample_weights.copy_(weights)  # type: ignore[union-attr]
    have, own = evaluate(weighted, setting.pair, rows=(6, 1, 9))
    want = evaluate(plain, setting.pair, rows=(6, 1, 9))[0]
    assert torch.allclose(have, weights[[6, 1, 9]] * want)
    assert set(own) == set(terms)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("spkd", "compares the samples of a batch"),
        ("semckd", "compares the samples of a batch"),
        ("rkd", "compares the samples of a batch"),
        ("dist", "compares the samples of a batch"),
        ("crd", "contrasts a sample with a memory of the others"),
        ("kd+spkd", "compares the samples of a batch"),
        ("random-control[crd]", "contrasts a sample with a memory"),
    ],
)
def test_methods_that_couple_samples_are_refused_with_the_reason(text: str, reason: str, setting: Setting) -> None:
    with pytest.raises(ConfigError, match=rf"cannot be weighted by influence: .*{reason}.*\. Wrap a method that") as e:
        parse_method(f"influence[{text}]").build(setting)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("target", ["student", "teacher", "both"])
def test_a_run_leaves_one_weight_and_one_influence_an_image(job: Job, tiny_task: Task, target: str) -> None:
    method = InfluenceWeighted(KD(), target=target, refresh=2, iterations=5)
    table = job(method, views=1).influence
    assert table is not None
    assert table["image"].tolist() == list(tiny_task.train.keys)
    assert table["label"].tolist() == [tiny_task.train.classes[i] for i in tiny_task.train.labels]
    assert table["weight"].mean() == pytest.approx(1, rel=1e-4)
    assert table["weight"].std() > 0.05
    assert table["influence"].notna().all()
    assert table["weight"].corr(table["influence"], method="spearman") < (-0.99 if target != "both" else 0)
    assert job(KD(), views=1).influence is None


def test_before_the_first_refresh_nothing_is_weighted(job: Job) -> None:
    plain = job(KD(), views=1).history["loss"]
    for refresh in (1, 2):  # of three epochs
        loss = job(InfluenceWeighted(KD(), refresh=refresh, iterations=5), views=1).history["loss"]
        assert (loss == plain)[:refresh].all()
        assert loss[refresh] != plain[refresh]


@pytest.mark.parametrize("target", ["student", "both"])
def test_a_refresh_that_never_comes_is_refused(job: Job, target: str) -> None:
    with pytest.raises(ConfigError, match=r"refresh=3 is never measured in 3 epochs: set refresh below"):
        job(InfluenceWeighted(KD(), target=target, refresh=3))
    assert job(InfluenceWeighted(KD(), target="teacher", refresh=3, iterations=5), views=1).influence is not None


def test_kappa_zero_is_the_plain_method(job: Job, assert_same: Same) -> None:
    assert_same(job(InfluenceWeighted(KD(), refresh=1, kappa=0.0, iterations=5), views=1), job(KD(), views=1))


@pytest.mark.slow
def test_images_with_a_wrong_label_are_found_and_count_less(
    make_pair: Callable[[int], ModelPair], tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric
) -> None:
    recipe = dataclasses.replace(tiny_recipe, epochs=16, lr=5e-3, augment="crop")  # unaugmented it learns them by heart
    method = InfluenceWeighted(StudentOnly(), refresh=15, iterations=10)
    seeds, n, flips = range(6), 48, 10
    aucs, weights = [], []
    for seed in seeds:
        wrong = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:flips]
        labels = tiny_task.train.labels.clone()
        labels[wrong] = (labels[wrong] + 1) % 3
        task = dataclasses.replace(tiny_task, train=dataclasses.replace(tiny_task.train, labels=labels))
        table = distill(make_pair(seed), task, method, recipe, seed=seed, fabric=tiny_fabric).influence
        assert table is not None
        flipped = torch.zeros(n, dtype=torch.bool).index_fill(0, wrong, True).numpy()
        ranks = table["influence"].rank()
        aucs.append((ranks[flipped].sum() - flips * (flips + 1) / 2) / (flips * (n - flips)))
        weights.append(table["weight"][flipped].mean())
    by_chance = ((n + 1) / (12 * flips * (n - flips)) / len(seeds)) ** 0.5  # standard error of the mean AUC
    assert sum(aucs) / len(seeds) > 0.5 + 4 * by_chance  # 0.67; about 0.76 with every kernel tried
    assert sum(weights) / len(seeds) < 0.9


def test_hidden_labels_are_the_teachers_predictions(setting: Setting, evaluate: Evaluate, tiny_task: Task) -> None:
    all_hidden = parse_method("influence[student-only]:pseudo=1").build(setting)
    assert all_hidden.needs_teacher
    pair, rows = setting.pair, tuple(range(48))
    with torch.no_grad():
        pair.teacher_network.fc.bias[1] += 3  # type: ignore[index,operator,union-attr]  # a teacher that errs
        x = pair.preprocessing(tiny_task.train.images)
        logits, said = pair.student(x), pair.teacher(x).argmax(1)
    assert (said != tiny_task.train.labels).any()
    have = evaluate(all_hidden, pair, rows=rows)[0]
    assert torch.allclose(have, torch.nn.functional.cross_entropy(logits, said, reduction="none"), rtol=1e-4)
    half = parse_method("influence[student-only]:pseudo=0.5").build(setting)
    assert half.hidden.sum() == 24  # type: ignore[union-attr,operator]
    want = torch.where(half.hidden, said, tiny_task.train.labels)  # type: ignore[arg-type]
    have = evaluate(half, pair, rows=rows)[0]
    assert torch.allclose(have, torch.nn.functional.cross_entropy(logits, want, reduction="none"), rtol=1e-4)


@pytest.mark.parametrize("text", ["random-control[influence[kd]]", "random-control[untrained-teacher[influence[kd]]]"])
def test_a_random_control_cannot_be_weighted_by_the_true_teacher(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write influence\[random-control\[\.\.\.\]\]"):
        parse_method(text)


@pytest.mark.parametrize("target", ["teacher", "student", "both"])
def test_hidden_labels_have_no_influence(
    target: str, tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric
) -> None:
    method = InfluenceWeighted(KD(alpha=0.5), target=target, pseudo=1.0, refresh=1, iterations=3)
    recipe = dataclasses.replace(tiny_recipe, epochs=2, views=1)
    wrong = dataclasses.replace(tiny_task.train, labels=(tiny_task.train.labels + 1) % 3)
    runs = [
        distill(tiny_pair, dataclasses.replace(tiny_task, train=train), method, recipe, fabric=tiny_fabric)
        for train in (tiny_task.train, wrong)
    ]
    one, other = (run.influence for run in runs)
    assert one is not None
    assert other is not None
    assert one["pseudo_label"].all()
    assert one["influence"].tolist() == other["influence"].tolist()
    assert one["weight"].tolist() == other["weight"].tolist()


def test_the_curvature_is_not_that_of_the_hidden_images_alone(setting: Setting) -> None:
    criterion = parse_method("influence[kd]:pseudo=0.5").build(setting)
    drawn = criterion._draw(48, 2)[:24]  # type: ignore[operator]
    assert 0 < criterion.hidden[drawn].sum() < 24  # type: ignore[index]


def test_subdistill_is_measured_as_it_is_trained(setting: Setting, evaluate: Evaluate) -> None:
    """With `peer_bn` training is indifferent to the scale of the student's features, and so is the measured loss."""
    criterion = parse_method("influence[subdistill:kd_weight=0]").build(setting)
    centrings = [m for m in criterion.modules() if isinstance(m, Centring)]
    rows = tuple(range(48))
    for _ in range(200):  # until the running statistics are the batch's
        trained = evaluate(criterion, setting.pair, rows=rows)[0]
    criterion.eval()
    with _scaled_as_trained(criterion.inner):  # type: ignore[arg-type]
        measured = evaluate(criterion, setting.pair, rows=rows)[0]
    assert torch.allclose(measured, trained, rtol=1e-2)
    assert not torch.allclose(evaluate(criterion, setting.pair, rows=rows)[0], trained, rtol=1e-2)
    assert {m.kind for m in centrings} == {"peer_bn"}
