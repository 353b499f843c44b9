from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from xaibench.models.layout import Layout


def layout(batch: int, side: tuple[int, int], **attributes: int) -> Layout:
    """Of a model that has just seen images (batch, 3, *side)."""
    model = nn.Identity()
    for name, value in attributes.items():
        setattr(model, name, value)
    found = Layout(model)
    found.see(model, (torch.zeros(batch, 3, *side),))
    return found


def counted(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).view(shape)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 5), st.integers(2, 8))
def test_tokens_lie_row_by_row_behind_their_prefix(
    batch: int, rows: int, columns: int, depth: int, prefix: int, patch: int
) -> None:
    found = layout(batch, (rows * patch, columns * patch), num_prefix_tokens=prefix)
    tokens = counted(batch, prefix + rows * columns, depth)
    maps = found.checked("blocks", tokens)
    assert torch.equal(maps, tokens[:, prefix:].reshape(batch, rows, columns, depth).permute(0, 3, 1, 2))
    assert torch.equal(found.back(maps, tokens), tokens)
    changed = found.back(maps + 1, tokens)
    assert torch.equal(changed[:, prefix:], tokens[:, prefix:] + 1)
    assert torch.equal(changed[:, :prefix], tokens[:, :prefix])


@pytest.mark.parametrize("shape", [(2, 5, 4, 4), (2, 4, 4, 4), (2, 6, 3, 3), (2, 7)])
def test_maps_and_vectors_stay_as_they_are_and_come_back_in_memory_of_their_own(shape: tuple[int, ...]) -> None:
    found, output = layout(2, (8, 8)), counted(*shape)
    maps = found.checked("layer", output)
    assert maps is output
    again = found.back(maps, output)
    assert torch.equal(again, output)
    assert again.data_ptr() != output.data_ptr()


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
def test_channels_at_the_end_are_moved_and_moved_back(batch: int, side: int, depth: int) -> None:
    found, output = layout(batch, (12, 12)), counted(batch, side, side, depth)
    maps = found.checked("layer", output)
    wanted = output if side == depth else output.permute(0, 3, 1, 2)  # a cube is taken for (B, d, H, W)
    assert torch.equal(maps, wanted)
    assert torch.equal(found.back(maps, output), output)
