"""Hugging Face's own classes, small and random: used as they are, without a wrapper."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

import xaibench as xb
from xaibench.attribution.explain import check_explainable
from xaibench.attribution.gradcam import last_map
from xaibench.attribution.store.keys import model_key
from xaibench.attribution.targets import make_target
from xaibench.data.images import Preprocessing
from xaibench.data.tasks import Task
from xaibench.errors import ExplanationError, ModelError
from xaibench.models.checkpoints import state_hash
from xaibench.models.copies import private_copy, untrained
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

CLASSES = ("middle", "top", "bottom")
SIDE = 12
PLAIN_METHODS = [name for name in xb.METHODS if name != "influence"]  # which wraps another
LOCAL_METHODS = ["sd-kd", "sd-dkd", "sd-nkd", "icd", "e2kd"]


def vit(seed: int = 0, attention: str = "sdpa", classes: int = 3, layers: int = 4) -> nn.Module:
    """3x3 patches of 4 pixels, a class token, 16 channels."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(
        image_size=SIDE, patch_size=4, num_labels=classes, attn_implementation=attention, initializer_range=0.2, **sizes
    )
    return transformers.ViTForImageClassification(config)


def resnet(seed: int = 0, classes: int = 3) -> nn.Module:
    """Maps of 3x3 and 2x2."""
    torch.manual_seed(seed)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", num_labels=classes
    )
    return transformers.ResNetForImageClassification(config)


MAKE: dict[str, Callable[..., nn.Module]] = {
    "resnet": resnet,
    "vit-sdpa": vit,
    "vit-eager": lambda seed=0, **options: vit(seed, "eager", **options),
}


@pytest.fixture(params=MAKE)
def make(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    return MAKE[request.param]


def pair_of(teacher: nn.Module, student: nn.Module, preprocessing: Preprocessing, **options: Any) -> ModelPair:
    return ModelPair.create(teacher, student, classes=CLASSES, preprocessing=preprocessing, **options)


def test_a_pair_has_layers_by_the_models_own_names_and_leaves_them_as_they_were(
    make: Callable[..., nn.Module], tiny_task: Task, tiny_preprocessing: Preprocessing
) -> None:
    names = ("edges", *CLASSES)
    teacher, student = make(0, classes=4).train(), make(1)
    before = [state_hash(model) for model in (teacher, student)]
    pair = pair_of(teacher, student, tiny_preprocessing, teacher_classes=names)
    assert len(pair.layers) >= 2
    assert {*pair.teacher_layers} <= {name for name, _ in teacher.named_modules()}
    assert all(len(shape) == 3 for shapes in pair.layer_shapes((SIDE, SIDE)).values() for shape in shapes)
    assert [state_hash(model) for model in (teacher, student)] == before
    assert teacher.training
    logits = predict_logits(pair.teacher, tiny_task.test, tiny_preprocessing)
    with torch.no_grad():
        whole = teacher.eval()(tiny_preprocessing(tiny_task.test.images)).logits
    torch.testing.assert_close(logits, whole[:, 1:])


def swin() -> nn.Module:
    """Stages of 4x4, 2x2 and 2x2 tokens, which return tuples."""
    sizes = {"embed_dim": 8, "depths": [1, 1, 1], "num_heads": [2, 2, 2], "window_size": 2, "patch_size": 2}
    return transformers.SwinForImageClassification(transformers.SwinConfig(image_size=16, num_labels=3, **sizes))


def deit() -> nn.Module:
    """A class token and a distillation token before the patches."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.DeiTConfig(image_size=16, patch_size=4, num_labels=3, **sizes)
    return transformers.DeiTForImageClassificationWithTeacher(config)


@pytest.mark.parametrize(
    ("model", "layers"), [(swin, r"swin.encoder.layers.\d"), (deit, r"deit.*layers?.\d")], ids=["swin", "deit"]
)
def test_blocks_are_paired_also_where_they_return_tuples(model: Callable[[], nn.Module], layers: str) -> None:
    pixels = Preprocessing((0.5,) * 3, (0.25,) * 3, (16, 16))
    pair = pair_of(model(), model(), pixels)
    assert pair.layers
    assert all(re.fullmatch(layers, name) for name in pair.teacher_layers)
    assert last_map(pair.teacher.eval(), (3, 16, 16))


@pytest.mark.parametrize("method", [*PLAIN_METHODS, "influence[kd]:refresh=1,iterations=2"])
def test_every_method_distils_a_resnet(
    method: str, tiny_task: Task, tiny_preprocessing: Preprocessing, tiny_fabric: Fabric
) -> None:
    pair = pair_of(resnet(0), resnet(1), tiny_preprocessing)
    run = xb.distill(pair, tiny_task, method, fabric=tiny_fabric, epochs=2, batch_size=16, precision="32-true")
    assert type(run.student) is type(pair.student)
    assert state_hash(run.student) != state_hash(pair.student)


@pytest.mark.parametrize("method", [name for name in PLAIN_METHODS if name not in LOCAL_METHODS])
def test_a_vit_is_distilled(
    method: str, tiny_task: Task, tiny_preprocessing: Preprocessing, tiny_fabric: Fabric
) -> None:
    whole = pair_of(vit(0), vit(1, "eager"), tiny_preprocessing)
    pair = replace(whole, layers=whole.layers[:-1])  # nothing reads the last block's tokens but the first
    run = xb.distill(pair, tiny_task, method, fabric=tiny_fabric, epochs=1, batch_size=16, precision="32-true")
    assert state_hash(run.student) != state_hash(pair.student)


@pytest.mark.parametrize("method", LOCAL_METHODS)
def test_local_logits_need_global_pooling(
    method: str, tiny_task: Task, tiny_preprocessing: Preprocessing, tiny_fabric: Fabric
) -> None:
    pair = pair_of(vit(0), vit(1), tiny_preprocessing)
    with pytest.raises(ModelError, match="ViTForImageClassification has no global average pooling"):
        xb.distill(pair, tiny_task, method, fabric=tiny_fabric, epochs=1, precision="32-true")


@pytest.mark.parametrize("explainer", xb.EXPLAINERS)
def test_every_explainer_explains(
    explainer: str, make: Callable[..., nn.Module], tiny_task: Task, tiny_preprocessing: Preprocessing
) -> None:
    pair = pair_of(make(0), make(1), tiny_preprocessing, layers=())
    for attribution in xb.explain(pair, tiny_task.test.take(range(3)), explainer):
        assert attribution.validity.valid
        assert attribution.relevance.shape == (3, 3, SIDE, SIDE)


def test_a_comparison_a_control_and_the_store(
    make: Callable[..., nn.Module], tiny_task: Task, tiny_preprocessing: Preprocessing, tmp_path: Path
) -> None:
    pair = pair_of(make(0), make(1), tiny_preprocessing, layers=())
    null = untrained(pair.student, seed=3)
    assert state_hash(null) != state_hash(pair.student)
    store = xb.AttributionStore(tmp_path)
    assert model_key(pair.student) == model_key(private_copy(pair.student)) is not None
    report = xb.compare(pair, tiny_task.test.take(range(4)), "ig", random_student=null, store=store)
    assert report.score("cosine", "random student").mean < 1


def test_plain_tuples_are_read_as_well(tiny_preprocessing: Preprocessing) -> None:
    model = resnet()
    model.config.return_dict = False
    assert isinstance(model(torch.zeros(1, 3, SIDE, SIDE)), tuple)
    assert pair_of(model, model, tiny_preprocessing).layers


def test_a_model_without_classifier_is_refused(tiny_task: Task, tiny_preprocessing: Preprocessing) -> None:
    bare = transformers.ViTModel(vit().config).eval()
    message = r"ViTModel returns BaseModelOutputWithPooling without 'logits' \(last_hidden_state, pooler_output\), not"
    with pytest.raises(ModelError, match=message):
        pair_of(bare, vit(), tiny_preprocessing)
    x, target = tiny_preprocessing(tiny_task.test.images[:2]), make_target(torch.eye(3)[:2])
    with pytest.raises(ExplanationError, match=message):
        check_explainable(bare, x, target, "occlusion", tiny_preprocessing)
