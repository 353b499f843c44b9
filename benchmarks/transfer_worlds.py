"""Does the transfer of right and wrong knowledge find what is there, and nothing else? Worlds of known transfer.

    python benchmarks/transfer_worlds.py --worlds 1000

A world has images of shared difficulty and image-specific confusions, one teacher, and for every seed a student and a
control (SIDDO). A student copies the teacher with probability tau+ where it is right and tau- where it is wrong, and
else answers as an independent control; in the last worlds it copies nothing and is less skilled than its control. The
last two columns are the shares of worlds with p < 0.05 (over seeds): false alarms where tau+ = tau-, else power. The
last line says how many of the last worlds alarm where tau- > tau+ is tested as it stands, whatever the sign of tau+.
"""

from __future__ import annotations

import argparse

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from xaibench.similarity.significance import signed_rank
from xaibench.similarity.transfer import transfer_table, transfer_tests

TAUS = ((0.0, 0.0), (0.3, 0.3), (0.6, 0.6), (0.3, 0.35), (0.3, 0.4), (0.3, 0.5), (0.5, 0.3))
SKILL, LESS = 0.1, -0.4
"""Of a control, and of a student, in the last worlds."""


def world(
    seed: int,
    right: float,
    wrong: float,
    seeds: int = 10,
    images: int = 4000,
    classes: int = 10,
    skill: float = SKILL,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Outputs (N, K) of a teacher, students and controls, and the labels.

    right, wrong  the transfers tau+ and tau-; skill: of a student
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform() -> Tensor:
        return torch.rand(images, generator=generator)

    def others(labels: Tensor) -> Tensor:
        return (labels + torch.randint(1, classes, (images,), generator=generator)) % classes

    labels = torch.randint(0, classes, (images,), generator=generator)
    difficulty, confused = uniform() ** 2, others(labels)

    def independent(skill: float) -> Tensor:
        """Wrong with probability (1 - skill) of the difficulty, then mostly as the image suggests."""
        slip = torch.where(uniform() < 0.6, confused, others(labels))
        return torch.where(uniform() < 1 - (1 - skill) * difficulty, labels, slip)

    teacher = independent(0.4)
    tau = torch.where(teacher == labels, right, wrong)
    controls = [independent(SKILL) for _ in range(seeds)]
    students = [torch.where(uniform() < tau, teacher, independent(skill)) for _ in range(seeds)]
    outputs = [one_hot(answers, classes).double() for answers in (teacher, *students, *controls)]
    return outputs[0], outputs[1 : 1 + seeds], outputs[1 + seeds :], labels


def measured(worlds: int, right: float, wrong: float, images: int, skill: float = SKILL) -> pd.DataFrame:
    """A row a world and number of seeds: mean tau+ and tau- over seeds, p of tau- > tau+, and p of the raw D- > D+.

    "bare p" is that of tau- > tau+ tested as it stands, without the condition that `transfer_tests` sets.
    """
    rows = []
    for number in range(worlds):
        table = transfer_table(*world(number, right, wrong, images=images, skill=skill))
        for seeds in (5, 7, 10):
            some = table.head(seeds)
            row = {"seeds": seeds, "tau+": some["tau+"].mean(), "tau-": some["tau-"].mean()}
            row["p"] = transfer_tests(some["tau+"], some["tau-"])["tau- - tau+"].p
            row["bare p"] = signed_rank(some["tau-"] - some["tau+"]).p
            rows.append(row | {"raw p": signed_rank(some["D-"] - some["D+"]).p, "wrong": some["wrong"].mean()})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--images", type=int, default=4000)
    options = parser.parse_args()
    print(
        "| tau+ | tau- | seeds | mean tau+ | mean tau- | 95% of errors below (tau+, tau-) | tau- > tau+ | raw D- > D+ |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for right, wrong, skill in [*((right, wrong, SKILL) for right, wrong in TAUS), (0.0, 0.0, LESS)]:
        table = measured(options.worlds, right, wrong, options.images, skill)
        for seeds, part in table.groupby("seeds"):
            found, raw = (part["p"] < 0.05).mean(), (part["raw p"] < 0.05).mean()
            errors = [(part[name] - true).abs().quantile(0.95) for name, true in (("tau+", right), ("tau-", wrong))]
            print(
                f"| {right} | {wrong} | {seeds} | {part['tau+'].mean():.3f} | {part['tau-'].mean():.3f} "
                f"| {errors[0]:.3f}, {errors[1]:.3f} | {found:.3f} | {raw:.3f} |",
                flush=True,
            )
    print(f"the teacher is wrong on {part['wrong'].mean():.0f} of {options.images} images")
    bare = (table["bare p"] < 0.05).groupby(table["seeds"]).mean()
    print("of the last worlds alarm without the condition on tau+: " + ", ".join(f"{one:.3f}" for one in bare))


if __name__ == "__main__":
    main()
