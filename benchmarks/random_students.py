"""How far do untrained students stray from the null? Several of them, on all test images of a run.

    python benchmarks/random_students.py runs/people-explainers --explainer lrp --explainer gradcam

A row a random initialisation and metric: its score, and what it has over its maps of other images and over its shifted
maps, paired, with 95% intervals. One that lies above 0 on both is likeness that nobody was taught.
"""

from __future__ import annotations

import argparse
import sys

from xaibench.attribution.explain import explain
from xaibench.models.copies import untrained
from xaibench.run.folder import open_run
from xaibench.run.inputs import load_assets
from xaibench.similarity.compare import compare
from xaibench.similarity.metrics.table import DEFAULT_METRICS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--explainer", action="append")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    assets = load_assets(open_run(options.run).config)
    pair, images = assets.pair, assets.task.test
    sys.stdout.write(
        f"{len(images)} images\n| explainer | seed | metric | score | - mismatched | - shifted |\n{'|---' * 6}|\n"
    )
    for explainer in options.explainer or ["lrp"]:
        for seed in range(options.seeds):
            maps = explain(pair.with_student(untrained(pair.student, seed)), images, explainer)
            report = compare(maps.teacher, maps.student, metrics=DEFAULT_METRICS)
            for metric in DEFAULT_METRICS:
                lifts = [report.lift(metric, over) for over in ("mismatched images", "shifted maps")]
                spans = " | ".join(f"{i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}]" for i in lifts)
                mean = report.score(metric).mean
                sys.stdout.write(f"| {explainer} | {seed} | {metric} | {mean:.3f} | {spans} |\n")


if __name__ == "__main__":
    main()
