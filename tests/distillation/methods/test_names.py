from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.distillation.losses.dkd import NKD_VARIANTS
from xaibench.distillation.losses.fitnet import FITNET_VARIANTS
from xaibench.distillation.losses.spkd import SPKD_VARIANTS
from xaibench.distillation.losses.subdistill import CENTRINGS, MAPPINGS
from xaibench.distillation.methods import (
    AT,
    CRD,
    DISDO,
    DIST,
    DKD,
    E2KD,
    ICD,
    KD,
    METHODS,
    RKD,
    SDDKD,
    SDKD,
    SDNKD,
    SIDDO,
    SPKD,
    VID,
    Combined,
    FitNet,
    InfluenceWeighted,
    LabelSmoothing,
    Method,
    RandomControl,
    ReviewKD,
    SemCKD,
    StudentOnly,
    SubDistill,
    UntrainedTeacher,
    VkD,
    method_name,
    parse_method,
)
from xaibench.errors import ConfigError, UnknownNameError, XaibenchError
from xaibench.subspace import BASES

share, above, weight, epochs = st.floats(0, 1), st.floats(0.01, 100), st.floats(0, 1e4), st.integers(0, 30)
feature = {"layer_weight": weight, "kd_weight": weight, "task_weight": above, "temperature": above}
layers = st.lists(st.sampled_from(["layer1", "blocks.3.5", "last"]), max_size=3).map(tuple)
layered = feature | {"layers": layers}
grids = st.sampled_from([(1,), (1, 2), (1, 4), (1, 2, 4)])
local = {"temperature": above, "scales": grids, "exact_global": st.booleans(), "warmup": epochs}
terms = st.one_of(
    st.just(StudentOnly()),
    st.builds(LabelSmoothing, share),
    st.builds(KD, share, above, st.booleans()),
    st.builds(DIST, beta=above, gamma=weight, temperature=above, task_weight=weight),
    st.builds(DKD, alpha=above, beta=weight, temperature=above, warmup=epochs, standardise=st.booleans()),
    st.builds(SDKD, alpha=share, **local),
    st.builds(SDDKD, alpha=above, beta=weight, **local),
    st.builds(SDNKD, gamma=weight, variant=st.sampled_from(NKD_VARIANTS), **local),
    st.builds(
        ICD,
        base=st.sampled_from(["sd-kd", "sd-dkd", "sd-nkd", "none"]),
        gamma=above,
        beta=above,
        **local | {"scales": st.sampled_from([(1, 2), (1, 4), (1, 2, 4)])},
    ),
    st.builds(FitNet, variant=st.sampled_from(FITNET_VARIANTS), **layered),
    st.builds(AT, **layered),
    st.builds(VID, learned_scale=st.booleans(), **layered),
    st.builds(SPKD, variant=st.sampled_from(SPKD_VARIANTS), **layered),
    st.builds(RKD, distance_weight=above, angle_weight=weight, **layered),
    st.builds(VkD, **layered),
    st.builds(
        CRD,
        negatives=st.integers(1, 99),
        contrast_temperature=above,
        momentum=st.floats(0, 0.99),
        dimensions=st.integers(1, 99),
        **feature,
    ),
    st.builds(SemCKD, **feature),
    st.builds(ReviewKD, warmup=epochs, **layered),
    st.builds(E2KD, **feature),
    st.builds(
        SubDistill,
        basis=st.sampled_from(sorted(BASES)),
        centring=st.sampled_from(CENTRINGS),
        beta=st.floats(0, 10),
        mapping=st.sampled_from(MAPPINGS),
        orthogonality=weight,
        dimension=st.sampled_from(["student", "full"]),
        normalise=st.booleans(),
        **layered,
    ),
)
sums = st.lists(terms, min_size=2, max_size=3).map(lambda parts: Combined(tuple(parts)))


def unweighted(method: Method) -> bool:
    """Whether no influence weights stand anywhere inside: random control refuses them."""
    return "InfluenceWeighted" not in repr(method)


def wrapped(inner: st.SearchStrategy[Method]) -> st.SearchStrategy[Method]:
    return st.one_of(
        st.builds(RandomControl, inner.filter(unweighted), noise=st.sampled_from(["uniform", "matched"])),
        st.builds(UntrainedTeacher, inner),
        st.builds(
            InfluenceWeighted,
            inner,
            target=st.sampled_from(["student", "teacher", "both"]),
            transform=st.sampled_from(["sigmoid", "exp_minmax"]),
            kappa=weight,
            refresh=st.integers(1, 9),
            damping=above,
            pseudo=share,
        ),
    )


methods = st.recursive(terms | sums | st.sampled_from([SIDDO(), DISDO()]), wrapped, max_leaves=3)


@settings(deadline=None, max_examples=150)
@given(method=methods)
def test_text_and_repr_give_the_method_back(method: Method) -> None:
    assert parse_method(method_name(method)) == method
    assert eval(repr(method)) == method


@pytest.mark.parametrize("name", METHODS)
def test_a_bare_name_is_the_method_with_its_defaults(name: str) -> None:
    method = parse_method(name)
    assert type(method) is METHODS[name]
    assert method == METHODS[name]()
    assert parse_method(method_name(method)) == method


def test_the_table_of_names() -> None:
    assert set(METHODS) == {
        *("student-only", "label-smoothing", "siddo", "disdo", "random-control", "untrained-teacher"),
        *("kd", "dkd", "dist", "sd-kd", "sd-dkd", "sd-nkd", "icd", "influence", "subdistill"),
        *("fitnet", "at", "vid", "spkd", "rkd", "vkd", "crd", "semckd", "reviewkd", "e2kd"),
    }


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("subdistill: centring=mean, layer_weight=50", SubDistill(centring="mean", layer_weight=50.0)),
        ("icd:scales=1+2", ICD(scales=(1, 2))),
        ("at:layers=layer3+layer4", AT(layers=("layer3", "layer4"))),
        ("kd+at:kd_weight=0", KD() + AT(kd_weight=0.0)),
        (" kd : alpha=0.5 + fitnet ", KD(alpha=0.5) + FitNet()),
        ("icd:scales=1+4+kd", ICD(scales=(1, 4)) + KD()),
        ("kd:temperature=1e+1+crd", KD(temperature=10.0) + CRD()),
        ("at:layers=layer3+layer4+sd-kd:scales=1+2+kd", AT(layers=("layer3", "layer4")) + SDKD(scales=(1, 2)) + KD()),
        ("influence[kd:alpha=1]:refresh=3", InfluenceWeighted(KD(alpha=1.0), refresh=3)),
        ("influence [ kd + at ] : refresh=3", InfluenceWeighted(KD() + AT(), refresh=3)),
        (
            "influence[random-control[kd+icd:scales=1+2]:noise=matched]:refresh=3",
            InfluenceWeighted(RandomControl(KD() + ICD(scales=(1, 2)), noise="matched"), refresh=3),
        ),
    ],
)
def test_texts_and_their_methods(text: str, method: Method) -> None:
    assert parse_method(text) == method
    assert parse_method(method_name(method)) == method


def test_names_are_short() -> None:
    assert method_name(SubDistill()) == "subdistill"
    assert method_name(SubDistill(centring="mean")) == "subdistill:centring=mean"
    assert method_name(KD() + AT(kd_weight=0, layers=("layer3", "layer4"))) == (
        "kd+at:kd_weight=0,layers=layer3+layer4"
    )
    assert method_name(InfluenceWeighted(KD(), refresh=3)) == "influence[kd]:refresh=3"


def test_sums_are_flat() -> None:
    assert (KD() + AT()) + (SPKD() + VkD()) == Combined((KD(), AT(), SPKD(), VkD()))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("subdistil", UnknownNameError, "unknown method 'subdistil': did you mean 'subdistill'"),
        ("", UnknownNameError, "unknown method ''"),
        ("kd+", UnknownNameError, r"unknown method 'kd\+': did you mean 'kd'"),
        ("kd:temp=2", UnknownNameError, "unknown option of method 'kd' 'temp': did you mean 'temperature'"),
        ("student-only:alpha=1", ConfigError, "takes no options"),
        ("kd[at]", ConfigError, "'kd' wraps no other: write 'kd', or wrap with one of random-control, untrained-"),
        ("foo[kd]", UnknownNameError, "unknown method 'foo'"),
        ("influence[foo]", UnknownNameError, "unknown method 'foo'"),
        ("influence:method=kd", ConfigError, "option 'method' of method 'influence' cannot be given as text"),
        ("influence[kd]:method=kd", UnknownNameError, "unknown option of method 'influence' 'method'"),
        ("influence[kd", ConfigError, r"method 'influence\[kd': the brackets do not match"),
        ("kd]", ConfigError, "the brackets do not match"),
        ("influence[kd]at", UnknownNameError, r"unknown method 'influence\[kd\]at'"),
        ("siddo+kd", ConfigError, "siddo changes the models or the data of a whole training and cannot be one term"),
        ("kd+influence[kd]", ConfigError, "influence changes .*: wrap the sum in it, or use it alone"),
    ],
)
def test_texts_that_name_no_method_are_refused(text: str, error: type[XaibenchError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse_method(text)
    assert "\n" not in str(caught.value)


def test_a_sum_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="a combination needs at least two methods, got 1"):
        Combined((KD(),))
