"""Rows of what is measured inside: known answers for a student that is its teacher, and for one that is not."""

import pandas as pd
import pytest
import torch

from xaibench.attribution.layers import LayerRelevance
from xaibench.questions.inside_rows import Seen, likeness_rows, share_rows
from xaibench.similarity.subspaces import Frame, locations
from xaibench.subspace.moments import MomentAccumulator

N, D, K = 9, 6, 3


def layer(seed, channels=D, loud=()):
    """Activation and context at 4 x 4 places; the context lies in the channels `loud`, or in all."""
    generator = torch.Generator().manual_seed(seed)
    activation, context = torch.randn(2, N, channels, 4, 4, generator=generator, dtype=torch.float64)
    if loud:
        context[:, [i for i in range(channels) if i not in loud]] = 0
    return LayerRelevance(activation, context)


def moments_of(seen):
    moments = MomentAccumulator(D)
    moments.update(*(locations(maps) for maps in (seen.activation, seen.context)))
    return moments.result()


def seen(one, k=K):
    return Seen(one, Frame(torch.eye(one.activation.shape[1], k, dtype=torch.float64), torch.zeros(D).double()))


def value(rows, **wanted):
    table = pd.DataFrame(rows)
    for name, one in wanted.items():
        table = table[table[name] == one]
    assert len(table) == 1
    return float(table["value"].iloc[0])


def test_all_directions_carry_all_relevance_and_a_random_subspace_its_share():
    one = layer(0, loud=(0, 1))
    rows = share_rows(one, moments_of(one), width=2)
    for pairing in ("matched", "pca subspace", "random subspace"):
        assert value(rows, measure="uncentred share", pairing=pairing, k=D) == pytest.approx(1)
    for k in (1, 2, 3):
        assert value(rows, measure="relevance share", pairing="random subspace", k=k) == pytest.approx(k / D)


def test_two_directions_carry_the_relevance_that_lies_in_two_channels():
    one = layer(1, loud=(0, 1))
    rows = share_rows(one, moments_of(one), width=2)
    assert value(rows, measure="relevance share", pairing="matched", k=2) > 0.95
    assert value(rows, measure="relevance share", pairing="pca subspace", k=2) < 0.7


def test_a_student_that_is_its_teacher_is_like_it_in_everything_and_its_controls_are_not():
    teacher = seen(layer(2))
    rows = likeness_rows(teacher, [teacher, teacher])
    for measure in ("relevance cosine", "activation cosine", "explained variance", "linear CKA"):
        assert value(rows, measure=measure, pairing="matched") == pytest.approx(1)
        assert value(rows, measure=measure, pairing="mismatched images") < 0.8
    for measure in ("relevance cosine", "activation cosine"):
        assert abs(value(rows, measure=measure, pairing="random rotation")) < 0.8
    for direction in range(1, K + 1):
        assert value(rows, measure="direction cosine", pairing="matched", k=direction) == pytest.approx(1)


def test_a_student_that_thinks_the_opposite_has_the_opposite_relevance_and_the_same_activation():
    teacher = layer(3)
    rows = likeness_rows(seen(teacher), [seen(LayerRelevance(teacher.activation, -teacher.context))])
    assert value(rows, measure="relevance cosine", pairing="matched") == pytest.approx(-1)
    assert value(rows, measure="activation cosine", pairing="matched") == pytest.approx(1)


def test_without_kept_features_there_is_no_feature_similarity_score_and_with_them_its_own_is_one():
    one = layer(4)
    kept = Seen(one, seen(one).frame, one.activation.clamp(min=0))
    assert "FSS" not in {row["measure"] for row in likeness_rows(seen(one), [seen(one)])}
    assert value(likeness_rows(kept, [kept]), measure="FSS", pairing="matched") == pytest.approx(1, abs=1e-6)
