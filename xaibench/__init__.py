"""xaibench: does a distilled student decide for the same reasons as its teacher?

The names below are imported when they are first used, so that `import xaibench` is fast. `xaibench.distillation` is the
package of that name; its function is `xaibench.distillation.distill.distill`.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "xaibench.attribution.result": ("Attribution",),
    "xaibench.attribution.explain": ("explain", "explain_model", "parse_explainer"),
    "xaibench.attribution.explainers": ("EXPLAINERS",),
    "xaibench.attribution.gradcam": ("GradCAM",),
    "xaibench.attribution.gradients": ("InputXGradient", "IntegratedGradients"),
    "xaibench.attribution.layers": ("direction_heatmaps", "layer_relevance"),
    "xaibench.attribution.lrp.explainer": ("LRP",),
    "xaibench.attribution.patches": ("Occlusion", "ShapleySampling"),
    "xaibench.attribution.smoothgrad": ("SmoothGrad",),
    "xaibench.attribution.store.store": ("AttributionStore", "default_store"),
    "xaibench.attribution.targets": ("Target", "make_target"),
    "xaibench.data.datasets": ("embedded", "load_dataset"),
    "xaibench.data.images": ("ImageSet", "Preprocessing"),
    "xaibench.data.tasks": ("Task", "load_task"),
    "xaibench.distillation.distill": ("DistillRun", "distill", "train_classifier"),
    "xaibench.distillation.methods": (
        "AT",
        "CRD",
        "DISDO",
        "DKD",
        "E2KD",
        "ICD",
        "KD",
        "METHODS",
        "SDDKD",
        "SDKD",
        "SDNKD",
        "SIDDO",
        "SPKD",
        "VID",
        "FitNet",
        "InfluenceWeighted",
        "LabelSmoothing",
        "RandomControl",
        "SemCKD",
        "StudentOnly",
        "SubDistill",
        "UntrainedTeacher",
        "VkD",
        "method_name",
        "parse_method",
    ),
    "xaibench.distillation.recipe": ("Recipe",),
    "xaibench.errors": ("XaibenchError",),
    "xaibench.models.architectures": ("build_model",),
    "xaibench.models.checkpoints": ("load_checkpoint", "save_checkpoint"),
    "xaibench.models.pair": ("LayerPair", "ModelPair"),
    "xaibench.progress": ("show_progress",),
    "xaibench.similarity.cross_flip": ("cross_flip",),
    "xaibench.similarity.metrics.table": ("METRICS",),
    "xaibench.similarity.flipping": ("flip_curve",),
    "xaibench.similarity.pooling": ("pooling_curve",),
    "xaibench.similarity.compare": ("SimilarityReport", "compare"),
    "xaibench.run.config": ("RunConfig",),
    "xaibench.run.folder": ("Run", "open_run"),
    "xaibench.run.pipeline": ("run_config",),
    "xaibench.testing": ("assert_explains_alike",),
    "xaibench.widgets.explorer": ("Explorer",),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'xaibench' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
