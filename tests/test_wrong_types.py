"""Wrong types through Python: every public function answers in one line of ours, never with a raw error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import xaibench as xb

WRONG: dict[str, Callable[[], object]] = {
    "open_run": lambda: xb.open_run(3),  # type: ignore[arg-type]
    "run_config": lambda: xb.run_config(3, "x"),  # type: ignore[arg-type]
    "run_config's folder": lambda: xb.run_config("demo", 3),  # type: ignore[arg-type]
    "RunConfig.load": lambda: xb.RunConfig.load(3),  # type: ignore[arg-type]
    "ModelPair.create": lambda: xb.ModelPair.create(None, None, classes=("a", "b"), preprocessing=None),  # type: ignore[arg-type]
    "ModelPair.load": lambda: xb.ModelPair.load(3, 4, 5),  # type: ignore[arg-type]
    "Recipe": lambda: xb.Recipe(lr="x"),  # type: ignore[arg-type]
    "distill": lambda: xb.distill(None, None, xb.KD),  # type: ignore[arg-type]
    "train_classifier": lambda: xb.train_classifier(1, 2, 3, 4),  # type: ignore[arg-type]
    "explain": lambda: xb.explain(3, 4),  # type: ignore[arg-type]
    "explain_model": lambda: xb.explain_model(3, 4, 5, 6, 7),  # type: ignore[arg-type]
    "compare": lambda: xb.compare(3, 4),  # type: ignore[call-overload]
    "Preprocessing": lambda: xb.Preprocessing("x", 3),  # type: ignore[arg-type]
    "load_task": lambda: xb.load_task(3),  # type: ignore[arg-type]
    "load_dataset": lambda: xb.load_dataset(3),  # type: ignore[arg-type]
    "ImageSet": lambda: xb.ImageSet(torch.zeros(8, 1, 4, 4), [0.7] * 8, ("a", "b"), tuple("abcdefgh"), ""),  # type: ignore[arg-type]
    "build_model": lambda: xb.build_model(4, 4),  # type: ignore[arg-type]
    "load_checkpoint": lambda: xb.load_checkpoint(4),  # type: ignore[arg-type]
    "save_checkpoint": lambda: xb.save_checkpoint(1, 2, 3),  # type: ignore[arg-type]
    "make_target": lambda: xb.make_target(1, 2),  # type: ignore[arg-type]
    "parse_method": lambda: xb.parse_method(3),  # type: ignore[arg-type]
    "method_name": lambda: xb.method_name(xb.KD),  # type: ignore[arg-type]
    "KD": lambda: xb.KD(temperature="hot"),  # type: ignore[arg-type]
    "LRP": lambda: xb.LRP(gamma="x"),  # type: ignore[arg-type]
    "direction_heatmaps": lambda: xb.direction_heatmaps(1, 2, 3, 4, 5, 6, 7),  # type: ignore[arg-type]
    "AttributionStore": lambda: xb.AttributionStore(3),  # type: ignore[arg-type]
    "assert_explains_alike": lambda: xb.assert_explains_alike(1, 2, min_cosine=0.5),  # type: ignore[arg-type]
    "Explorer": lambda: xb.Explorer(3),  # type: ignore[arg-type]
    "gallery": lambda: xb.gallery(1, 2, 3, titles=4),  # type: ignore[arg-type]
    "similarity_figure": lambda: xb.similarity_figure(3),  # type: ignore[arg-type]
    "save_figure": lambda: xb.save_figure(1, 2),  # type: ignore[arg-type]
    "latex_table": lambda: xb.latex_table(3),  # type: ignore[arg-type]
    "model_cost": lambda: xb.model_cost(3, (3, 8, 8)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_type_is_one_line(name: str) -> None:
    with pytest.raises(xb.XaibenchError) as caught:
        WRONG[name]()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 20
