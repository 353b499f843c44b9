"""Which LRP for transformers? Faithfulness and localisation of its variants on small ViTs trained here.

    python benchmarks/vit_lrp.py --seeds 1 2 3 --out runs/vit

For each seed a ViT (28x28 images in patches of 4, width 64, 6 blocks, 4 heads) learns the ten classes of
Fashion-MNIST; every training image of one class carries a mark in a corner drawn at random. Trained networks are kept
in --out, results in its results.csv; a second call goes on from there.

flipping      on clean test images: area under the curve of z_y - z_r while patches are replaced by the mean colour in
              random order, less the area in the order of the map, in logits. Above 0: better than a random order
localisation  on test images of the other classes that the mark turns into the marked class: does what speaks for
              that class against the true one lie on the mark? ROC AUC of pixels and share of positive relevance

Means over images, then mean and t interval over seeds.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from xaibench.attribution.explain import explain_model
from xaibench.attribution.explainers import parse_explainer
from xaibench.attribution.targets import Target, make_target
from xaibench.data.cue_kinds import parse_cue
from xaibench.data.cues import class_index, contaminate, mark
from xaibench.data.datasets import preprocessing_for
from xaibench.data.images import ImageSet
from xaibench.data.tasks import load_task
from xaibench.distillation.distill import train_classifier
from xaibench.distillation.recipe import Recipe
from xaibench.models.predict import predict_logits
from xaibench.similarity.flipping import flip_curve
from xaibench.similarity.localisation import LOCALISATIONS
from xaibench.similarity.patch_order import random_order

CUE, CLASS = "square:size=5,corner=random,margin=1", "Coat"
EXPLAINERS = (
    *(
        f"lrp:attention={attention},linear_gamma={gamma}"
        for attention in ("constant", "attnlrp")
        for gamma in (0, 0.05, 0.25, 1)
    ),
    "ig",
    "input-x-gradient",
    "smoothgrad",
    "occlusion",
)


def network(seed: int) -> nn.Module:
    """A small ViT with random weights."""
    torch.manual_seed(seed)
    return VisionTransformer(
        img_size=28, patch_size=4, in_chans=1, num_classes=10, embed_dim=64, depth=6, num_heads=4, mlp_ratio=2
    )


def trained(seed: int, train: ImageSet, validation: ImageSet, epochs: int, folder: Path) -> nn.Module:
    """The ViT of a seed, from `folder` or trained into it."""
    model, path = network(seed), folder / f"vit{seed}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    recipe = Recipe(epochs=epochs, lr=2e-3, schedule="cosine", augment="crop", padding=2, batch_size=128)
    preprocessing, work = preprocessing_for("fashion-mnist"), folder / f"training{seed}"
    result = train_classifier(model, train, validation, preprocessing, recipe, seed=seed, folder=work)
    torch.save(result.student.state_dict(), path)
    return result.student.eval()


def measured(model: nn.Module, test: ImageSet, images: int, seed: int) -> list[dict[str, object]]:
    """A row an explainer, of one network."""
    preprocessing = preprocessing_for("fashion-mnist")
    sample = test.sample(images, seed=seed)
    x = preprocessing(sample.images)
    target = make_target(predict_logits(model, sample, preprocessing), sample.labels)
    by_chance = flip_curve(model, x, random_order(len(x), 49, seed), target, preprocessing, fill="mean").auc
    marked_class = class_index(test, CLASS)
    others = test.take((test.labels != marked_class).nonzero().flatten()).sample(images, seed=seed)
    marked = mark(others, parse_cue(CUE), seed=seed)
    before = predict_logits(model, others, preprocessing).argmax(dim=1)
    after = predict_logits(model, marked.images, preprocessing).argmax(dim=1)
    turned = ((before == others.labels) & (after == marked_class)).nonzero().flatten()
    part, xm = marked.take(turned), preprocessing(marked.images.images[turned])
    asked = Target(torch.full((len(turned),), marked_class), others.labels[turned])
    rows = []
    for text in EXPLAINERS:
        explainer = parse_explainer(text)
        clean = explain_model(model, x, target, explainer, preprocessing)
        gap = by_chance - flip_curve(model, x, clean.scored_heatmaps, target, preprocessing, fill="mean").auc
        maps = explain_model(model, xm, asked, explainer, preprocessing).scored_heatmaps
        row = {"explainer": text, "flipping": np.nanmean(gap), "undefined": int(np.isnan(gap).sum())}
        row |= {name: np.nanmean(LOCALISATIONS[name](maps, part.masks)) for name in ("auc", "mass")}
        row |= {f"{name} chance": np.nanmean(LOCALISATIONS[name].chance(maps, part.masks)) for name in ("auc", "mass")}
        absorbed = clean.measured.get("absorbed_embedding")
        if absorbed is not None:
            row["to embeddings"] = float((absorbed / clean.measured["explained"]).median())
            row["accounted for"] = float((clean.heatmaps.sum(dim=(1, 2)) / clean.measured["explained"]).median())
        rows.append(row | {"turned": len(turned), "marked": len(others)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=100, help="test images for each of the two measurements")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train-only", action="store_true")
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    task = load_task("fashion-mnist", "all", validation=0.1, seed=0)
    train, validation = (contaminate(part, parse_cue(CUE), CLASS, 1.0).images for part in (task.train, task.validation))
    path = options.out / "results.csv"
    done = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["seed"])
    for seed in options.seeds:
        model = trained(seed, train, validation, options.epochs, options.out)
        if options.train_only or seed in set(done["seed"]):
            continue
        right = predict_logits(model, task.test, preprocessing_for("fashion-mnist")).argmax(dim=1) == task.test.labels
        rows = pd.DataFrame(measured(model, task.test, options.images, seed))
        done = pd.concat([done, rows.assign(seed=seed, accuracy=float(right.double().mean()))])
        done.to_csv(path, index=False)
    if options.train_only:
        return
    done = done[done["seed"].isin(options.seeds)]
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores; seeds {sorted(set(done['seed']))}")
    print(
        f"accuracy on clean test images {done.groupby('seed')['accuracy'].first().round(3).tolist()}, "
        f"turned by the mark {done.groupby('seed')['turned'].first().tolist()} of {int(done['marked'].iloc[0])}"
    )
    numbers = done.drop(columns=["seed", "accuracy", "turned", "marked"]).groupby("explainer", sort=False)
    print(
        pd.concat(
            [
                numbers.mean().round(3),
                numbers["flipping"].std().round(3).rename("SD of flipping"),
                numbers["auc"].std().round(3).rename("SD of auc"),
            ],
            axis=1,
        ).to_string()
    )


if __name__ == "__main__":
    main()
