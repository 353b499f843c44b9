from __future__ import annotations

import pytest

from xaibench.distillation.methods import METHODS, parse_method
from xaibench.errors import XaibenchError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((f"{name}:temperature=0", r"temperature must be above 0, got 0\.0") for name in METHODS if name in (
            "kd", "dkd", "sd-kd", "sd-dkd", "sd-nkd", "icd", "fitnet", "at", "vid", "spkd", "vkd", "crd", "semckd",
            "e2kd", "subdistill", "dist", "rkd", "reviewkd",
        )),
        *((f"{name}:layer_weight=-1", r"layer_weight must be at least 0, got -1\.0") for name in (
            "fitnet", "at", "vid", "spkd", "vkd", "crd", "semckd", "e2kd", "subdistill", "rkd", "reviewkd",
        )),
        ("kd:temperature=-2", r"temperature must be above 0, got -2\.0"),
        ("kd:temperature=nan", "temperature must be above 0, got nan"),
        ("kd:temperature=inf", "temperature must be above 0, got inf"),
        ("kd:alpha=1.5", r"alpha must be between 0 and 1, got 1\.5"),
        ("sd-kd:alpha=-0.1", "alpha must be between 0 and 1"),
        ("label-smoothing:epsilon=2", "epsilon must be between 0 and 1"),
        ("dkd:beta=-1", r"beta must be at least 0, got -1\.0"),
        ("dkd:alpha=0,beta=0", "alpha, beta are all 0: nothing would be learned"),
        ("dist:beta=-1", r"beta must be at least 0, got -1\.0"),
        ("dist:beta=0,gamma=0", "beta, gamma are all 0: nothing would be learned"),
        ("dist:task_weight=-1", "task_weight must be at least 0"),
        ("rkd:distance_weight=0,angle_weight=0", "distance_weight, angle_weight are all 0: nothing would be learned"),
        ("reviewkd:warmup=-1", "warmup must be at least 0, got -1"),
        ("kd:standardise=2", "standardise"),
        ("dkd:warmup=-1", "warmup must be at least 0, got -1"),
        ("dkd:task_weight=-1", "task_weight must be at least 0"),
        ("sd-nkd:gamma=-1", "gamma must be at least 0"),
        ("sd-nkd:variant=publc", "unknown NKD variant 'publc': did you mean 'public'"),
        ("sd-kd:scales=2+4", r"scales must be one of 1, 1\+2, 1\+4, 1\+2\+4, got 2\+4"),
        ("sd-dkd:scales=1+3", r"scales must be one of .*, got 1\+3"),
        ("icd:scales=", "scales must be one of .*, got none"),
        ("icd:scales=1", "iCD compares cells with each other: scales must hold 2 or 4"),
        ("icd:gamma=0", "gamma must be above 0"),
        ("icd:base=kd", "unknown base of iCD 'kd': did you mean 'sd-kd'"),
        ("fitnet:variant=sum", "unknown FitNet variant 'sum'"),
        ("spkd:variant=sqared", "unknown SPKD variant 'sqared': did you mean 'squared'"),
        ("at:kd_weight=nan", "kd_weight must be at least 0, got nan"),
        ("at:kd_weight=inf", "kd_weight must be at least 0, got inf"),
        ("at:layer_weight=0,kd_weight=0", "layer_weight, kd_weight, task_weight are all 0: nothing would be learned"),
        ("crd:momentum=1", r"momentum must be at least 0 and below 1, got 1\.0"),
        ("crd:negatives=0", "negatives must be above 0"),
        ("crd:contrast_temperature=0", "contrast_temperature must be above 0"),
        ("subdistill:basis=prca_pos", "unknown basis 'prca_pos': did you mean 'prcaposdef'|'prca"),
        ("subdistill:centring=peer", "unknown centring 'peer': did you mean 'peer_bn'"),
        ("subdistill:mapping=soft", "unknown mapping 'soft'"),
        ("subdistill:dimension=all", "unknown dimension 'all': did you mean 'full'|Known: student, full"),
        ("subdistill:beta=-1", "beta must be at least 0, got -1"),
        ("subdistill:orthogonality=-1", "orthogonality must be at least 0"),
        ("random-control:noise=normal", "unknown noise 'normal'"),
        ("influence:target=pupil", "unknown target of influence 'pupil'"),
        ("influence:transform=exp", "unknown transform of influence 'exp': Known: sigmoid, exp_minmax"),
        ("influence:kappa=-1", "kappa must be at least 0"),
        ("influence:refresh=0", "refresh must be above 0"),
        ("influence:pseudo=1.1", "pseudo must be between 0 and 1"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_when_the_method_is_made(text: str, message: str) -> None:
    with pytest.raises(XaibenchError, match=message) as caught:
        parse_method(text)
    assert "\n" not in str(caught.value)
