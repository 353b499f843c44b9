"""An in-memory run with the interface of an opened run folder."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from xaibench.attribution.explainers import parse_explainer
from xaibench.attribution.store.store import AttributionStore
from xaibench.attribution.targets import Target
from xaibench.data.images import ImageSet

CLASSES = ("coat", "pull<over>", "shirt")


class FakeRun:
    explainers = ("lrp", "ig")
    models = ("teacher", "kd/seed0", "kd/seed1", "subdistill/seed0", "subdistill/seed1", "untrained")
    classes = CLASSES

    def __init__(self, n=12, side=28, channels=1):
        rng = np.random.default_rng(0)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=generator)
        labels = torch.arange(n) % 3
        self.images = ImageSet(pixels, labels, CLASSES, tuple(f"test/{i:03d}" for i in range(n)), "fake")
        self._maps = {(m, e): rng.normal(size=(n, side, side)) for m in self.models for e in self.explainers}
        self._target = Target(labels, (labels + 1) % 3)
        self.reads = []
        rows = []
        for model in self.models[1:-1]:
            method, seed = model.split("/seed")
            for explainer in self.explainers:
                for metric in ("cosine", "ssim"):
                    for pairing in ("matched", "random student"):
                        values = rng.uniform(-1, 1, n)
                        rows += [
                            (method, int(seed), explainer, metric, pairing, key, value)
                            for key, value in zip(self.images.keys, values)
                        ]
        columns = ["method", "seed", "explainer", "metric", "pairing", "image", "value"]
        self._scores = pd.DataFrame(rows, columns=columns)
        predicted = {model: labels.tolist() for model in self.models}
        predicted["kd/seed0"] = [*predicted["kd/seed0"]]
        for place in (4, 7):
            predicted["kd/seed0"][place] = (int(labels[place]) + 1) % 3
        self._predictions = pd.DataFrame(
            [
                {
                    "model": model,
                    "image": key,
                    "label": CLASSES[labels[i]],
                    "predicted": CLASSES[predicted[model][i]],
                    "confidence": 0.75,
                    "correct": predicted[model][i] == int(labels[i]),
                }
                for model in self.models
                for i, key in enumerate(self.images.keys)
            ]
        )

    def attribution(self, model, explainer):
        self.reads.append((model, explainer))
        maps, n = torch.from_numpy(self._maps[model, explainer]), len(self.images)
        measured = {"error_estimate": torch.arange(n) / 1000, "residual": torch.zeros(n)}
        measured["gradients"] = torch.full((n,), 41.0)
        return SimpleNamespace(
            scored_heatmaps=maps,
            target=self._target,
            explainer=parse_explainer(explainer),
            measured=measured if explainer == "ig" else {},
            validity=SimpleNamespace(flagged=()),
        )

    def scores(self):
        return self._scores

    def summary(self):
        matched = self._scores[self._scores["pairing"] == "matched"]
        grouped = matched.groupby(["method", "explainer", "metric"], sort=False)["value"]
        summary = grouped.agg(["mean", "count"]).reset_index().rename(columns={"count": "n"})
        return summary.assign(chance=0.05, chance_sd=0.1)

    def predictions(self):
        return self._predictions


@pytest.fixture
def fake_run():
    return FakeRun()


@pytest.fixture
def make_run():
    return FakeRun


@pytest.fixture
def store(tmp_path):
    return AttributionStore(tmp_path / "store")


@pytest.fixture
def images(tiny_task):
    return tiny_task.test.take(range(6))


@pytest.fixture
def run_as_script(store):
    """run_as_script(code, **names) -> the names that an explorer's code leaves, run outside of a notebook."""

    def run(code, **names):
        opened = code.replace("xb.explore(\n", "xb.explore(\n    store=store, what=").replace(
            "pair, images,", "pair, second=images,"
        )
        exec(opened.replace("await explorer.settled()", ""), names | {"store": store}, found := {})
        return found

    return run


@pytest.fixture
def predictions_fail(monkeypatch):
    """Within `predictions_fail()` no model predicts: memory is out."""

    @contextmanager
    def failing():
        def fail(*args):
            raise RuntimeError("out of memory, say")

        with monkeypatch.context() as patched:
            patched.setattr("xaibench.models.predict.predict_logits", fail)
            yield

    return failing


@pytest.fixture
def hold_explanations(monkeypatch):
    """hold_explanations() -> an event: from now on explanations wait until it is set."""

    def hold():
        import xaibench.attribution.explain as module

        go_on, real = threading.Event(), module.explain_model
        monkeypatch.setattr(module, "explain_model", lambda *a, **o: go_on.wait(30) and real(*a, **o))
        return go_on

    return hold
