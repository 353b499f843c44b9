"""Every figure with few and many methods, in both columns: texts can be read, nothing overlaps or leaves the canvas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests.figures.well_drawn import assert_well_drawn
from xaibench.figures.cues import QUANTITIES, cues_figure
from xaibench.figures.differences import difference_figure
from xaibench.figures.dimension import dimension_figure
from xaibench.figures.directions import directions_figure
from xaibench.figures.flipping import flip_figure
from xaibench.figures.gallery import gallery
from xaibench.figures.history import history_figure
from xaibench.figures.influence import influence_figure
from xaibench.figures.inside import inside_figure
from xaibench.figures.league import league_figure
from xaibench.figures.likeness import likeness_figure
from xaibench.figures.matrix import score_matrix
from xaibench.figures.pooling import pooling_figure
from xaibench.figures.reliability import reliability_figure
from xaibench.figures.similarity import similarity_figure
from xaibench.figures.spectra import spectra_figure
from xaibench.figures.students import students_figure
from xaibench.figures.style import paper_style
from xaibench.figures.transfer import transfer_figure
from xaibench.subspace.bases import BASES

METHODS = (
    "subdistill",
    "kd",
    "student-only",
    "icd:base=sd-dkd,warmup=5",
    "at",
    "influence[kd:temperature=2]:refresh=3",
    "subdistill:centring=mean,layer_weight=50",
    "kd+fitnet:kd_weight=0",
    "vid",
    "untrained-teacher",
    "semckd",
    "my_own_method_of_a_name_that_does_not_end",
)
EXPLAINERS = ("lrp", "ig:tolerance=0.01,baseline=blur", "input-x-gradient")
CLASSES = ("T-shirt/top", "an aquarium fish of the sea", "X")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def summary(methods: tuple[str, ...]) -> pd.DataFrame:
    random, rows = rng(), []
    for method in methods:
        for explainer in EXPLAINERS:
            for metric in ("cosine", "sign_agreement", "topk_iou", "a_metric_of_my_own_with_a_name"):
                mean = random.uniform(-0.1, 0.95)
                row = {"method": method, "explainer": explainer, "metric": metric, "mean": mean, "low": mean - 0.1}
                row |= {"high": mean + 0.1, "n": 300, "nan": 150, "seeds": 3, "chance": 0.1, "chance_sd": 0.2}
                row |= {"independent": mean - 0.2, "random_student": 0.1, "mismatched": 0.2, "shifted": 0.15}
                rows.append(row | {"lift_low": mean - 0.4})
    return pd.DataFrame(rows)


def of_similarity(methods: tuple[str, ...], width: str) -> Figure:
    return similarity_figure(summary(methods), note="3 of 7 explainers", width=width)


def of_scores(methods: tuple[str, ...], width: str) -> Figure:
    return score_matrix(summary(methods), width=width)


def of_league(methods: tuple[str, ...], width: str) -> Figure:
    quantities = ["accuracy", "agreement", *(f"{e} {q}" for e in EXPLAINERS for q in ("cosine", "lift"))]
    values = rng().uniform(-0.2, 0.9, (len(methods) + 1, len(quantities)))
    table = pd.DataFrame(values, columns=quantities).assign(method=["teacher", *methods])
    ends = {
        f"{name} {end}": table[name] + sign * 0.0234 for name in quantities for end, sign in (("low", -1), ("high", 1))
    }
    return league_figure(table.assign(**ends), width=width)


def of_gallery(methods: tuple[str, ...], width: str) -> Figure:
    random = rng()
    teacher, *maps = random.normal(size=(1 + len(methods), 3, 8, 8))
    maps[0][1, 0, 0] = np.nan
    return gallery(
        random.uniform(size=(3, 3, 8, 8)),
        teacher,
        dict(zip(methods, maps)),
        titles=[f"{name}\nrather than {CLASSES[0]}" for name in CLASSES],
        scores={method: ["cosine 0.53", "top-10% IoU −0.12", ""] for method in methods},
        heading="integrated gradients (tolerance=0.01, baseline=blur), students of seed 0",
        width=width,
    )


def of_history(methods: tuple[str, ...], width: str) -> Figure:
    epochs = np.arange(20)
    curves = {
        f"{method}/seed{seed}": pd.DataFrame(
            {"epoch": epochs, "validation_accuracy": 0.6 - 0.5 * np.exp(-epochs / (3 + i + 0.3 * seed))}
        )
        for i, method in enumerate(methods)
        for seed in range(2)
    }
    return history_figure(curves, teacher_accuracy=0.61, width=width)


def of_flipping(methods: tuple[str, ...], width: str) -> Figure:
    fractions = np.linspace(0, 1, 9)
    rows = [
        {"model": model, "order": order, "measure": measure, "fraction": x, "mean": y, "low": y - 0.1, "high": y + 0.1}
        for model in ("teacher", *methods)
        for order in ("own", "teacher", "random")
        for measure in ("difference", "probability", "unchanged", "with teacher")
        if model != "teacher" or (order != "teacher" and measure != "with teacher")
        for x, y in zip(fractions, np.exp(-3 * fractions))
    ]
    return flip_figure(pd.DataFrame(rows).assign(n=100), width=width)


def inside(methods: tuple[str, ...]) -> pd.DataFrame:
    random, rows = rng(), []
    for layer in ("layer1:layer1", "features.4:blocks.1.2", "layer3:layer3", "layer4:layer4"):
        shares = {"matched": 0.7, "pca subspace": 0.5, "random subspace": 0.2}
        for pairing, level in shares.items():
            for k in (1, 2, 4, 8, 16, 32, 64):
                value = 1 - (1 - level) * np.exp(-k / 20)
                row = {"layer": layer, "method": "teacher", "measure": "relevance share", "pairing": pairing, "k": k}
                rows.append(row | {"value": value, "low": value - 0.05, "high": value + 0.05})
        for method in methods:
            for measure in ("relevance cosine", "activation cosine", "explained variance", "linear CKA", "FSS"):
                for pairing in ("matched", "random rotation", "mismatched images"):
                    value = random.uniform(-0.1, 0.9)
                    row = {"layer": layer, "method": method, "measure": measure, "pairing": pairing, "k": 16}
                    rows.append(row | {"value": value, "low": value - 0.05, "high": value + 0.05})
    return pd.DataFrame(rows).assign(n=100)


def of_inside(methods: tuple[str, ...], width: str) -> Figure:
    return inside_figure(inside(methods), width=width)


def of_layers(methods: tuple[str, ...], width: str) -> Figure:
    return inside_figure(inside(methods), students=False, width=width)


def of_pooling(methods: tuple[str, ...], width: str) -> Figure:
    grids = (1, 2, 4, 7, 14, 28)
    curves = {}
    for i, method in enumerate(methods):
        mean = np.linspace(0.9, 0.2, len(grids)) - 0.03 * i
        curves[method] = pd.DataFrame(
            {"grid": grids, "mean": mean, "low": mean - 0.05, "high": mean + 0.05, "n": 300, "seeds": 3}
        ).assign(chance=0.0, chance_sd=0.2, mismatched=mean / 3, shifted=mean / 4)
    return pooling_figure(curves, "cosine", width=width)


def of_cues(methods: tuple[str, ...], width: str) -> Figure:
    rows = []
    for quantity in QUANTITIES:
        explained = quantity not in ("attack_success", "marked_accuracy", "wrong_accuracy", "accuracy")
        for explainer in EXPLAINERS if explained else ("-",):
            for i, method in enumerate(("teacher", *methods)):
                for level in (np.nan,) if method == "teacher" else (0, 0.25, 0.5, 0.75, 1):
                    mean = 0.1 + 0.02 * i + (0.3 * level if np.isfinite(level) else 0)
                    row = {"contamination": level, "method": method, "explainer": explainer, "quantity": quantity}
                    rows.append(row | {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "chance": 0.03})
    return cues_figure(pd.DataFrame(rows), width=width)


def of_influence(methods: tuple[str, ...], width: str) -> Figure:
    random = rng()
    labels = [CLASSES[i % 3] for i in range(40)]
    title = f"Influence of training images: {methods[-1]}/seed0"
    images, weights = random.integers(0, 255, (40, 1, 9, 9)).astype(np.uint8), random.uniform(0, 2, 40)
    return influence_figure(images, weights, labels, title=title, width=width)


def of_directions(methods: tuple[str, ...], width: str) -> Figure:
    random = rng()
    teacher, student = random.normal(size=(2, 2, 3, 8, 8))
    names = ("teacher, layer4", f"{methods[-1]}, blocks.3.5")
    titles = [f"{name}\nrather than X" for name in CLASSES[:2]]
    images, cosines = random.uniform(size=(2, 1, 8, 8)), [[0.1, -0.2, np.nan], [0.3, 0.4, 0.5]]
    return directions_figure(images, teacher, student, titles=titles, cosines=cosines, names=names, width=width)


def of_spectra(methods: tuple[str, ...], width: str) -> Figure:
    names = ("layer1:layer1", "features.4:blocks.1.2", "layer3:layer3", "layer4:layer4")[: len(methods)]
    spectra = {name: np.geomspace(1, 1e-7, 2**place * 8) for place, name in enumerate(names)}
    return spectra_figure(spectra, widths=dict.fromkeys(names, 8), width=width)


def of_dimension(methods: tuple[str, ...], width: str) -> Figure:
    rows = []
    for layer in ("layer1:layer1", "features.4:blocks.1.2", "layer3:layer3", "layer4:layer4"):
        rows.append({"layer": layer, "basis": "none", "k": 512, "accuracy": 0.9})
        for basis in list(BASES)[: len(methods)]:
            rows += [{"layer": layer, "basis": basis, "k": 2**i, "accuracy": 0.9 - 0.6 / 2**i} for i in range(10)]
    table = pd.DataFrame(rows).assign(width=56, chance=0.2, n=500)
    table = table.assign(low=table["accuracy"] - 0.02, high=table["accuracy"] + 0.02)
    return dimension_figure(table, width=width)


def of_students(methods: tuple[str, ...], width: str) -> Figure:
    table = pd.DataFrame({"method": ["teacher", *methods], "parameters": [11_000_000, *[120_000] * len(methods)]})
    table = table.assign(macs=table["parameters"] * 40, accuracy=0.6 + 0.02 * table.index, agreement=0.7)
    table.loc[0, "agreement"] = np.nan
    for name in ("accuracy", "agreement"):
        table[f"{name} low"], table[f"{name} high"] = table[name] - 0.02, table[name] + 0.03
    return students_figure(table, width=width)


def of_transfer(methods: tuple[str, ...], width: str) -> Figure:
    random = rng()
    tables = {
        name: pd.DataFrame({"tau+": random.normal(0.3, 0.05, 7), "tau-": random.normal(0.4, 0.1, 7), "wrong": 81})
        for name in methods
    }
    return transfer_figure(tables, width=width)


def of_reliability(methods: tuple[str, ...], width: str) -> Figure:
    edges = np.linspace(0, 1, 16)
    curve = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "confidence": edges[1:] - 0.03})
    curve = curve.assign(accuracy=curve["confidence"] ** 1.3, count=np.arange(15))
    curves = {"teacher": curve, **{f"{name}/seed{seed}": curve for name in methods for seed in range(2)}}
    return reliability_figure(curves, width=width)


def of_likeness(methods: tuple[str, ...], width: str) -> Figure:
    random = rng()
    students = pd.DataFrame({"method": methods * 3, "accuracy": random.uniform(0.3, 0.9, 3 * len(methods))})
    return likeness_figure(
        students.assign(**{f"{name} cosine": students["accuracy"] - 0.1 for name in EXPLAINERS}), width=width
    )


def of_differences(methods: tuple[str, ...], width: str) -> Figure:
    rows = [
        {"a": methods[0], "b": other, "quantity": quantity, "difference": 0.1, "low": -0.05, "high": 0.25}
        for other in methods[1:] or ("kd",)
        for quantity in ("accuracy", "agreement", *(f"{name} cosine" for name in EXPLAINERS))
    ]
    return difference_figure(pd.DataFrame(rows).assign(unit="subtasks", significant=True), width=width)


FIGURES: dict[str, Callable[[tuple[str, ...], str], Figure]] = {
    "gallery": of_gallery,
    "likeness": of_likeness,
    "differences": of_differences,
    "similarity": of_similarity,
    "league": of_league,
    "scores": of_scores,
    "history": of_history,
    "flipping": of_flipping,
    "inside": of_inside,
    "layers": of_layers,
    "pooling": of_pooling,
    "influence": of_influence,
    "directions": of_directions,
    "cues": of_cues,
    "spectra": of_spectra,
    "dimension": of_dimension,
    "students": of_students,
    "transfer": of_transfer,
    "reliability": of_reliability,
}


@pytest.mark.parametrize("count", [1, 3, 12])
@pytest.mark.parametrize("width", ["single", "double"])
@pytest.mark.parametrize("kind", FIGURES)
def test_nothing_overlaps_and_all_can_be_read(kind: str, width: str, count: int) -> None:
    assert_well_drawn(FIGURES[kind](METHODS[-count:], width))


@pytest.mark.parametrize("font", ["serif", "latex"])
@pytest.mark.parametrize("kind", FIGURES)
def test_so_do_other_fonts(kind: str, font: str) -> None:
    with paper_style(font):
        figure = FIGURES[kind](METHODS[:4], "single")
    assert_well_drawn(figure)
