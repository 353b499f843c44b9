"""How much more alike one method's explanations are than others', on the same images and seeds.

    python benchmarks/paired_differences.py runs/people subdistill --explainer lrp

Differences of cosines to the teacher, image by image and seed by seed, on the images that both methods have, with the
interval of `mean_interval`: for one seed it speaks for these two students alone.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from xaibench.run.folder import open_run
from xaibench.similarity.intervals import mean_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("method")
    parser.add_argument("--explainer", default="lrp")
    parser.add_argument("--metric", default="cosine")
    options = parser.parse_args()
    scores = open_run(options.run).scores()
    chosen = scores[
        (scores["metric"] == options.metric)
        & (scores["pairing"] == "matched")
        & (scores["explainer"] == options.explainer)
    ]
    table = chosen.pivot_table(index=["method", "seed"], columns="image", values="value", dropna=False)
    own = table.loc[options.method]
    rows = [f"| {options.method} minus | difference | pairs | undefined |", "|---|---|---|---|"]
    for method in dict.fromkeys(chosen["method"]):
        if method != options.method:
            interval = mean_interval((own - table.loc[method]).to_numpy(dtype=np.float64))
            text = f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
            rows.append(f"| {method} | {text} | {interval.n} | {interval.nan} |")
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
