import asyncio
import html
import re

import numpy as np
import pytest
import torch
import traitlets
from ipywidgets.widgets.widget import _instances
from torch import nn

from xaibench.data.images import ImageSet
from xaibench.distillation.measure import measure_moments
from xaibench.errors import ConfigError, DataError, UnknownNameError, XaibenchError
from xaibench.models.layer_outputs import forward_with_layers
from xaibench.models.predict import predict_logits
from xaibench.similarity.projection import projected_accuracy
from xaibench.subspace.bases import BASES, make_basis
from xaibench.widgets import subspace_view
from xaibench.widgets.subspaces import SubspacePanel


@pytest.fixture
def panel_of(tiny_pair, tiny_task):
    """panel_of(**arguments) -> a panel of the tiny pair, with one basis at layer4; closed after the test."""
    made = []

    def make(images=tiny_task, pair=tiny_pair, **arguments):
        made.append(SubspacePanel(pair, images, **{"bases": (), "explained": 6, **arguments}))
        return made[-1]

    yield make
    for panel in made:
        panel.close()


def alts(panel):
    return [html.unescape(alt) for alt in re.findall(r'alt="([^"]+)"', panel._pictures.value + panel._looks.value)]


def shown(panel):
    return panel._pictures.value, panel._looks.value


def test_spectra_are_those_of_the_training_images_and_name_the_students_width(panel_of, tiny_pair, tiny_task):
    panel = panel_of()
    assert (panel.error, panel.layer, panel.k, panel.direction) == ("", "layer4", 8, 1)
    for text, (layer, moments), k in zip(
        alts(panel), measure_moments(tiny_pair, tiny_task.train).items(), (4, 6, 8, 8)
    ):
        values = torch.linalg.eigvalsh(moments.activation).flip(0)
        shares = values / values.sum()
        assert text.startswith(f"Spectrum of {layer}, {len(values)} channels: the first direction has {shares[0]:.0%}")
        assert f"the first {k}, as many as the student's channels, {shares[:k].sum():.1%}" in text


def test_accuracies_are_those_of_the_projected_teacher(panel_of, tiny_pair, tiny_task):
    panel = panel_of(bases=("random", "pca"))
    moments = measure_moments(tiny_pair, tiny_task.train)["layer4"]
    assert panel.bases == ("pca", "random")
    assert set(panel.accuracies["basis"]) == {"prcaposdef", "pca", "random"}
    for kind, rows in panel.accuracies.groupby("basis"):
        assert rows["k"].tolist() == [1, 2, 4, 8, 16]
        basis = make_basis(moments, kind, 16)
        found = projected_accuracy(
            tiny_pair.teacher, tiny_task.test, tiny_pair.preprocessing, "layer4", basis, rows["k"].tolist()
        )
        np.testing.assert_allclose(rows["accuracy"], found, atol=1 / len(tiny_task.test))
    own = predict_logits(tiny_pair.teacher, tiny_task.test, tiny_pair.preprocessing).argmax(1)
    accuracy = (own == tiny_task.test.labels).double().mean().item()
    assert panel.accuracies.query("k == 16")["accuracy"].tolist() == pytest.approx([accuracy] * 3, abs=0.05)
    told = alts(panel)[4]
    assert all(re.search(rf"{kind} [\d.]+ at k = 8, [\d.]+ at most", told) for kind in panel.accuracies["basis"])


def test_all_directions_carry_all_of_variance_and_relevance(panel_of):
    panel = panel_of(layer="layer2", k=12)
    assert "Shares of the first 12 directions of prcaposdef at layer2: variance 100.0%, relevance 100.0%" in alts(panel)
    panel.basis = "random"
    panel.k = 1
    panel.direction = 1
    text = next(alt for alt in alts(panel) if alt.startswith("Shares of the first 1 directions of random"))
    variance, relevance = re.findall(r"([-\d.]+%)", text)
    assert f"direction 1 of random at layer2: {variance} of the variance, {relevance} of the relevance (LRP)" in (
        html.unescape(panel._looks.value)
    )


def test_the_images_of_a_direction_are_those_that_it_responds_to(panel_of, tiny_pair, tiny_task):
    panel = panel_of(layer="layer3", direction=2, basis="pca")
    moments = measure_moments(tiny_pair, tiny_task.train)["layer3"]
    u = make_basis(moments, "pca", 16).vectors[:, 1]
    test = panel._view.test
    with torch.no_grad():
        x = tiny_pair.preprocessing(test.images)
        maps = forward_with_layers(tiny_pair.teacher, x, ("layer3",)).layers["layer3"].double()
    means = (
        torch.einsum("d,ndhw->nhw", u, maps - moments.mean[:, None, None]).mean((1, 2))
        / (u @ moments.activation @ u).sqrt()
    )
    order = (-means).argsort()
    expected = [int(i) for i in (*order[:4], *order.flip(0)[:4])]
    pictures = [alt for alt in alts(panel) if alt.startswith("Relevance of direction 2 of layer3 for ")]
    assert pictures == [
        f"Relevance of direction 2 of layer3 for {test.keys[i]}, {test.classes[test.labels[i]]}" for i in expected
    ]
    shown = panel._looks.value.replace("−", "-")
    sds = [float(value) for value in re.findall(r"([-+][\d.]+) sd", shown)]
    np.testing.assert_allclose(sds, means[expected], atol=0.02)


def test_what_is_computed_once_is_remembered(panel_of, monkeypatch):
    calls = []
    for name in ("measure_moments", "projected_accuracy", "layer_relevance", "direction_heatmaps"):
        real = getattr(subspace_view, name)

        def counted(*args, real=real, name=name, **options):
            calls.append(name)
            return real(*args, **options)

        monkeypatch.setattr(subspace_view, name, counted)
    panel = panel_of()
    first, before = shown(panel), sorted(calls)
    assert before == ["direction_heatmaps", "layer_relevance", "measure_moments", "projected_accuracy"]
    panel.k = 3
    assert sorted(calls) == before
    panel.direction = 3
    panel.basis = "pca"
    panel.basis, panel.direction, panel.k = "prcaposdef", 1, 8
    assert shown(panel) == first
    assert sorted(calls) == sorted([*before, "direction_heatmaps", "direction_heatmaps", "projected_accuracy"])


def test_k_and_direction_follow_to_a_layer_with_fewer(panel_of):
    panel = panel_of(k=15, direction=16)
    panel.layer = "layer1"
    assert (panel.k, panel.direction, panel.error) == (8, 8, "")
    assert panel._controls["k"].max == panel._controls["direction"].max == 8
    assert "direction 8 of prcaposdef at layer1" in panel._looks.value


def test_k_max_bounds_what_is_shown(panel_of):
    panel = panel_of(k_max=3)
    assert (panel.k, panel._controls["direction"].max) == (3, 3)
    assert panel.accuracies["k"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("trait", "value", "error", "message"),
    [
        ("layer", "layer5", UnknownNameError, "unknown layer 'layer5': did you mean 'layer"),
        ("basis", "pcaa", UnknownNameError, "unknown basis 'pcaa': did you mean 'pca'"),
        ("bases", ("pca", "mine"), UnknownNameError, "unknown basis 'mine'"),
        ("bases", (["pca"],), UnknownNameError, "unknown basis"),
        ("k", 0, ConfigError, r"k must lie in 1..16 at layer4, got 0"),
        ("k", 10**9, ConfigError, "got 1000000000"),
        ("direction", 17, ConfigError, r"direction must lie in 1..16 at layer4, got 17"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_changes(panel_of, trait, value, error, message):
    panel = panel_of()
    before, seen = getattr(panel, trait), shown(panel)
    with pytest.raises(error, match=message):
        setattr(panel, trait, value)
    assert getattr(panel, trait) == before
    assert shown(panel) == seen


def test_layer_and_k_can_be_set_at_once(panel_of):
    panel = panel_of(layer="layer1")
    with panel.hold_trait_notifications():
        panel.k, panel.layer = 14, "layer4"
    assert (panel.k, panel.layer) == (14, "layer4")
    with pytest.raises(ConfigError, match=r"k must lie in 1..8 at layer1, got 9"), panel.hold_trait_notifications():
        panel.layer, panel.k = "layer1", 9
    assert (panel.k, panel.layer) == (14, "layer4")


def test_after_an_error_the_traits_are_those_of_what_is_on_show(panel_of, monkeypatch):
    panel = panel_of(layer="layer3", direction=12)
    seen = shown(panel)

    asked, real = [], panel._view.scene

    def fails_once(*arguments):
        asked.append(arguments)
        if len(asked) == 1:
            raise RuntimeError("no memory left")
        return real(*arguments)

    monkeypatch.setattr(panel._view, "scene", fails_once)
    panel.layer = "layer1"
    assert panel.error == "RuntimeError: no memory left"
    assert (panel.layer, panel.direction, shown(panel)) == ("layer3", 12, seen)
    assert panel._controls["layer"].value == "layer3"
    assert panel._controls["direction"].max == 16
    panel.layer = "layer1"
    assert (panel.error, panel.direction) == ("", 8)


def test_the_controls_set_the_traits_and_take_impossible_values(panel_of):
    panel = panel_of()
    control = panel._controls
    control["layer"].value = "layer3"
    control["basis"].value = "gradpca"
    control["k"].value, control["direction"].value = 5, 2
    panel._boxes["pca"].value = True
    assert (panel.layer, panel.basis, panel.k, panel.direction, panel.bases) == ("layer3", "gradpca", 5, 2, ("pca",))
    assert "direction 2 of gradpca at layer3" in panel._looks.value
    control["k"].set_state({"value": 10**9})
    assert panel.k == control["k"].value == 16
    control["direction"].set_state({"value": -4})
    assert panel.direction == control["direction"].value == 1
    for name in ("layer", "basis"):
        with pytest.raises(traitlets.TraitError):
            control[name].set_state({"index": 99})
    assert (panel.layer, panel.basis, panel.error) == ("layer3", "gradpca", "")
    assert all(control.description for control in control.values())


def test_every_basis_can_be_looked_at(panel_of):
    panel = panel_of()
    for kind in BASES:
        panel.basis = kind
        assert panel.error == ""
        assert f"direction 1 of {kind} at layer4" in panel._looks.value


def test_relevance_that_no_explainer_gives_is_a_sentence_and_the_rest_is_shown(tiny_pair, tiny_task, panel_of):
    class Jagged(nn.Module):
        """Its gradient is not the slope of its outputs: neither LRP nor gradients explain it."""

        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 3)

        def forward(self, x):
            maps = self.body(x)
            return self.head((maps + (maps.detach() * 3).sin()).mean((2, 3)))

    torch.manual_seed(0)
    pair = tiny_pair.create(
        Jagged(),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        classes=tiny_pair.classes,
        preprocessing=tiny_pair.preprocessing,
        layers=["body:0"],
    )
    panel = panel_of(pair=pair)
    assert panel.error == ""
    assert "no share of the relevance: " in panel._looks.value
    assert "no heatmaps: " in panel._looks.value
    assert len(alts(panel)) == 3 + 8


def test_images_are_taken_as_they_are_and_few_are_enough(panel_of, tiny_task, tiny_pair):
    few = tiny_task.test.take([0, 1, 2])
    panel = panel_of(few, explained=40)
    assert (panel.error, len(panel._view.images), len(panel._view.test)) == ("", 3, 3)
    other = panel_of(tiny_task.train, test=few)
    assert (len(other._view.images), len(other._view.test)) == (48, 3)


def test_what_cannot_be_shown_is_refused(panel_of, tiny_task, tiny_pair):
    swapped = ImageSet(tiny_task.test.images, tiny_task.test.labels, ("a", "b", "c"), tiny_task.test.keys)
    for arguments, error, message in (
        ({"images": swapped}, DataError, "the images have classes"),
        ({"test": swapped}, DataError, "the test images have classes"),
        ({"k_max": 0}, ConfigError, "k_max must be at least 1, got 0"),
        ({"explained": 0}, DataError, "must be at least 1, got 0"),
        ({"images": 3}, ConfigError, "images must be"),
        ({"k": 99}, ConfigError, r"k must lie in 1..16 at layer4, got 99"),
        ({"layer": "fc"}, UnknownNameError, "unknown layer 'fc'"),
    ):
        with pytest.raises(error, match=message):
            panel_of(**arguments)
    bare = tiny_pair.create(
        tiny_pair.student,
        tiny_pair.student,
        classes=tiny_pair.classes,
        preprocessing=tiny_pair.preprocessing,
        layers=(),
    )
    with pytest.raises(XaibenchError, match="no layer pairs"):
        panel_of(pair=bare)


def test_in_a_notebook_the_latest_request_is_shown_and_the_moments_are_measured_once(tiny_pair, tiny_task, monkeypatch):
    measured = []
    real = subspace_view.measure_moments
    monkeypatch.setattr(subspace_view, "measure_moments", lambda *a, **o: measured.append(1) or real(*a, **o))
    before = set(_instances)

    async def main():
        panel = SubspacePanel(tiny_pair, tiny_task, bases=(), explained=4)
        assert (panel._pictures.value, panel._stop.layout.display) == ("", None)
        while not measured:
            await asyncio.sleep(0)
        panel.layer, panel.direction = "layer1", 3
        panel.basis = "pca"
        await asyncio.wait_for(panel.settled(), 60)
        assert panel.error == ""
        assert "direction 3 of pca at layer1" in panel._looks.value
        seen = shown(panel)
        panel.basis = "random"
        panel.cancel()
        await asyncio.sleep(0.05)
        assert shown(panel) == seen
        assert panel.basis == panel._controls["basis"].value == "pca"
        panel.close()

    asyncio.run(main())
    assert measured == [1]
    assert set(_instances) == before
