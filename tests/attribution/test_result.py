from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from xaibench.attribution.checks import Validity, at_most
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.result import Attribution
from xaibench.attribution.targets import Target
from xaibench.errors import DataError, ExplanationError


@pytest.fixture
def attribution() -> Attribution:
    return Attribution(
        relevance=torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)),
        target=Target(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]), "own"),
        explainer=IntegratedGradients(steps=20, baseline="mean"),
        validity=Validity((at_most("a", 0.5, 1.0),), (2,)),
        model_hash="m",
        input_hash="i",
        versions={"torch": "2"},
        references={"baseline": torch.zeros(1, 2, 4, 4)},
    )


def test_save_and_load_give_the_same_back(attribution: Attribution, tmp_path: Path) -> None:
    back = Attribution.load(attribution.save(tmp_path / "a.safetensors"))
    assert torch.equal(back.relevance, attribution.relevance)
    assert back.target.same_as(attribution.target)
    assert back.target.rule == "own"
    assert torch.equal(back.references["baseline"], attribution.references["baseline"])
    for name in ("explainer", "validity", "model_hash", "input_hash", "versions"):
        assert getattr(back, name) == getattr(attribution, name)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_heatmaps_sum_the_channels_with_their_sign(attribution: Attribution) -> None:
    wanted = attribution.relevance.numpy()
    torch.testing.assert_close(attribution.heatmaps, torch.tensor(wanted[:, 0] + wanted[:, 1]))


def test_take_keeps_maps_targets_and_flags_together(attribution: Attribution) -> None:
    part = attribution.take([2, 0])
    assert torch.equal(part.relevance, attribution.relevance[[2, 0]])
    assert part.target.label.tolist() == [2, 0]
    assert part.validity.flagged == (0,)
    assert part.input_hash == attribution.take([2, 0]).input_hash
    assert part.input_hash not in ("i", attribution.take([0, 2]).input_hash)
    assert attribution.take([0, 1, 2]).input_hash == "i"


@pytest.mark.parametrize("indices", [[-1, 0], [2, -3], torch.tensor([-1, -3])])
def test_take_counts_from_the_end(attribution: Attribution, indices: object) -> None:
    part, wanted = attribution.take(indices), attribution.take([2, 0])  # type: ignore[arg-type]
    assert torch.equal(part.relevance, wanted.relevance)
    assert part.validity.flagged == (0,)
    assert part.input_hash == wanted.input_hash


def test_take_by_a_mask(attribution: Attribution) -> None:
    part = attribution.take(torch.tensor([False, True, True]))
    assert torch.equal(part.relevance, attribution.relevance[1:])
    assert part.target.label.tolist() == [1, 2]
    assert part.validity.flagged == (1,)
    assert attribution.take([True] * 3).input_hash == "i"
    with pytest.raises(DataError, match="a mask of 2 does not fit 3 images"):
        attribution.take([True, False])


def test_repr_is_short_and_says_whether_it_is_valid(attribution: Attribution) -> None:
    text = repr(attribution)
    assert text == "Attribution(ig:steps=20,baseline=mean, 3 maps 2x4x4, valid, 1 flagged, model m)"
    invalid = Attribution(attribution.relevance, attribution.target, LRP(), Validity(()), "m", "i")
    assert "NOT valid" in repr(invalid)


def test_maps_and_targets_must_agree(attribution: Attribution) -> None:
    with pytest.raises(ExplanationError, match="does not fit 2 targets"):
        Attribution(attribution.relevance, attribution.target.take([0, 1]), LRP(), Validity(()), "m", "i")


def test_files_that_are_no_attribution(attribution: Attribution, tmp_path: Path) -> None:
    with pytest.raises(ExplanationError, match="no attribution at"):
        Attribution.load(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ExplanationError, match="is not an attribution of this version"):
        Attribution.load(tmp_path / "other.safetensors")
    empty = tmp_path / "long.safetensors"
    empty.write_bytes((2**60).to_bytes(8, "little") + b"{}")  # a header longer than the file
    with pytest.raises(ExplanationError, match="cannot read"):
        Attribution.load(empty)
    path = attribution.save(tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ExplanationError, match="cannot read"):
        Attribution.load(path)


def test_the_same_attribution_gives_the_same_bytes(attribution: Attribution, tmp_path: Path) -> None:
    paths = [attribution.save(tmp_path / f"{i}.safetensors") for i in range(8)]
    assert len({path.read_bytes() for path in paths}) == 1
    assert torch.equal(load_file(paths[0])["relevance"], attribution.relevance)  # an ordinary file of its kind


def test_a_file_that_is_cut_while_it_is_read_kills_nobody(
    attribution: Attribution, tmp_path: Path, monkeypatch
) -> None:
    """Its bytes are read at once: from a file that is mapped into memory and then cut, reading is a bus error."""
    path = attribution.save(tmp_path / "a.safetensors")

    def cut(self: Path) -> bytes:
        with self.open("rb") as file:
            content = file.read()
        os.truncate(self, 100)
        return content

    monkeypatch.setattr(Path, "read_bytes", cut)
    assert torch.equal(Attribution.load(path).relevance, attribution.relevance)
    with pytest.raises(ExplanationError, match="cannot read"):
        Attribution.load(path)
