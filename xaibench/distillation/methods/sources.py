"""What each method adds to the loss, and where it was published: one line a method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from xaibench.distillation.methods.base import Combined, Method
from xaibench.distillation.methods.wrapped import Wrapped

__all__ = ["SOURCES", "Source", "sources_of"]


@dataclass(frozen=True)
class Source:
    """The loss, with the weights that it has by default, and what published it ("" for what has no one source).

    Options stand in backticks, as in Markdown.
    """

    loss: str
    citation: str = ""

    @property
    def plain(self) -> Source:
        """The same without backticks, where nothing makes code of them."""
        return Source(self.loss.replace("`", ""), self.citation.replace("`", ""))


_SDD = "SDD: Wei et al. 2024 (CVPR), arXiv 2403.13512"
_STANDARDISE = "`standardise`: Sun et al. 2024 (CVPR), arXiv 2403.01427"
_FUNCTIONAL = "Mason-Williams et al. 2025, arXiv 2510.12615"

SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "student-only": Source("cross-entropy (CE), without a teacher"),
        "label-smoothing": Source("CE with smoothed labels, `epsilon` 0.1, without a teacher"),
        "siddo": Source("CE; the same initialisation and another order of the data", _FUNCTIONAL),
        "disdo": Source("CE; another initialisation and the same order of the data", _FUNCTIONAL),
        "kd": Source("0.9 T² KL + 0.1 CE, T = 4", f"Hinton et al. 2015, arXiv 1503.02531; {_STANDARDISE}"),
        "dkd": Source(
            "CE + min((epoch + 1) / `warmup`, 1) · T² (α TCKD + β NCKD), α 1, β 8, epochs from 0",
            f"Zhao et al. 2022 (CVPR), arXiv 2203.08679; {_STANDARDISE}",
        ),
        "dist": Source(
            "CE + T² (`beta` (1 - r) within samples + `gamma` (1 - r) within classes), r Pearson's, 2, 2, T = 1",
            "Huang et al. 2022 (NeurIPS), arXiv 2205.10536",
        ),
        "sd-kd": Source("KD on local logits: the classifier on each cell of 1x1, 2x2 and 4x4 grids", _SDD),
        "sd-dkd": Source("DKD on local logits", _SDD),
        "sd-nkd": Source("NKD on local logits", f"{_SDD}; NKD: Yang et al. 2023 (ICCV), arXiv 2303.13005"),
        "icd": Source(
            "`base` (SD-KD, SD-DKD, SD-NKD or none) + γ L_cd: which cells agree with each other",
            "Xue et al. 2025, arXiv 2509.12553",
        ),
        "fitnet": Source("KD + regression of the teacher's maps, 100", "Romero et al. 2015 (ICLR), arXiv 1412.6550"),
        "at": Source("KD + where a layer is active, 1000", "Zagoruyko and Komodakis 2017 (ICLR), arXiv 1612.03928"),
        "vid": Source("KD + Gaussian likelihood of the teacher's maps, 1", "Ahn et al. 2019 (CVPR), arXiv 1904.05835"),
        "spkd": Source(
            "KD + which samples a layer finds alike, 3000 (last layer pair)",
            "Tung and Mori 2019 (ICCV), arXiv 1907.09682",
        ),
        "rkd": Source(
            "KD + 25 distances + 50 angles between the batch's samples, 1 (last layer pair)",
            "Park et al. 2019 (CVPR), arXiv 1904.05068",
        ),
        "vkd": Source(
            "KD + orthogonal projection onto the teacher's normalised pooled features, 1 (last pair)",
            "Miles et al. 2024 (CVPR), arXiv 2403.06213",
        ),
        "crd": Source(
            "KD + contrast with a memory of other images, 0.8 (last pair)", "Tian et al. 2020 (ICLR), arXiv 1910.10699"
        ),
        "semckd": Source(
            "KD + every student layer from every teacher layer, by learned attention, 400",
            "Chen et al. 2021 (AAAI), arXiv 2012.03236",
        ),
        "reviewkd": Source(
            "KD + every teacher layer from the student's layers at its depth and below, by learned fusion, 5",
            "Chen et al. 2021 (CVPR), arXiv 2104.09044",
        ),
        "e2kd": Source(
            "KD + 1 - cosine of Grad-CAM of the teacher's prediction, 1",
            "Parchami-Araghi et al. 2024 (ECCV), arXiv 2402.03119",
        ),
        "subdistill": Source(
            "KD + 100 Σ layer losses in the teacher's subspace", "Chormai et al. 2026, arXiv 2601.05913"
        ),
        "random-control": Source("METHOD, the teacher's outputs replaced by noise", _FUNCTIONAL),
        "untrained-teacher": Source("METHOD with a teacher that was never trained", _FUNCTIONAL),
        "influence": Source(
            "METHOD, training images weighted by their influence on the validation loss (KD-AIF)",
            "Wu et al. 2025 (Statistics), arXiv 2501.02705",
        ),
    }
)


def sources_of(method: Method) -> Iterator[tuple[str, Source]]:
    """Name and source of a method and of those that it wraps or sums."""
    if isinstance(method, Combined):
        for part in method.methods:
            yield from sources_of(part)
        return
    yield method.name, SOURCES[method.name]
    if isinstance(method, Wrapped):
        yield from sources_of(method.method)
