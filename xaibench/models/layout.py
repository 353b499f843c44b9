"""Where in a layer's output the locations of the image are: its form as maps (B, d, H, W)."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor, nn

from xaibench.errors import ModelError

__all__ = ["Layout"]


class Layout:
    """Turns what the layers of one model give into maps and back."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.batch: int | None = None
        self.size = (1, 1)

    @cached_property
    def prefixes(self) -> tuple[int, ...]:
        """Numbers of prefix tokens that are possible, the likelier first."""
        counts = (getattr(module, "num_prefix_tokens", None) for module in self.model.modules())
        return next(((count, 0) for count in counts if isinstance(count, int)), (0, 1, 2))

    @cached_property
    def channels_last(self) -> bool:
        """Whether some of the model's maps are (B, H, W, d)."""
        from torchvision.models import SwinTransformer  # slow to import

        return any(
            isinstance(module, SwinTransformer) or getattr(module, "output_fmt", None) == "NHWC"
            for module in self.model.modules()
        )

    def see(self, _model: nn.Module, args: tuple[object, ...]) -> None:
        """Take note of the images (B, C, H, W) of a forward pass."""
        if args and isinstance(args[0], Tensor) and args[0].ndim == 4:
            self.batch, self.size = args[0].shape[0], (args[0].shape[2], args[0].shape[3])

    def whole(self, output: Tensor) -> bool:
        """Whether `output` has one entry an image, as that of windows has not."""
        return self.batch is None or output.shape[:1] == (self.batch,)

    def map(self, output: Tensor) -> Tensor | None:
        """A view of `output` as (B, d, H, W); itself if it has no locations; None where it cannot be told."""
        if output.ndim == 3:
            return self._grid(output)
        if output.ndim == 4:
            a, b, c = output.shape[1:]
            square = self.size[0] == self.size[1]
            if square and a == b != c:
                return output.permute(0, 3, 1, 2)
            if (a == b == c or not square) and self.channels_last:
                return None
        return output

    def back(self, maps: Tensor, output: Tensor) -> Tensor:
        """`output` rebuilt from its maps, in memory of its own."""
        if maps is output:
            return output.clone()
        if output.ndim == 4:
            return maps.permute(0, 2, 3, 1).clone()
        tokens = maps.flatten(2).transpose(1, 2)
        return torch.cat([output[:, : output.shape[1] - tokens.shape[1]], tokens], dim=1)

    def checked(self, name: str, output: object) -> Tensor:
        """As `map`, with the reason where there is none."""
        if not isinstance(output, Tensor):
            raise ModelError(f"layer '{name}' returns a {type(output).__name__}, not a tensor: tap a layer inside it")
        shape = tuple(output.shape)
        if not self.whole(output):
            raise ModelError(
                f"layer '{name}' gives {shape} for {self.batch} images: it works on parts of them: "
                "pair the layer around it"
            )
        maps = self.map(output)
        if maps is not None:
            return maps
        if output.ndim == 4:
            raise ModelError(
                f"layer '{name}' gives {shape} in a model that keeps channels last, and which dimension holds them "
                "cannot be told: pair another layer, or use square images"
            )
        raise ModelError(
            f"layer '{name}' gives {shape[1]} tokens, which fill no grid of the images' shape behind "
            f"{' or '.join(map(str, sorted(set(self.prefixes))))} prefix tokens: pair another layer, or give the model "
            "the attribute num_prefix_tokens"
        )

    def _grid(self, tokens: Tensor) -> Tensor | None:
        height, width = self.size
        for prefix in self.prefixes:
            count = max(tokens.shape[1] - prefix, 0)
            rows = math.isqrt(count * height // width)
            if rows and count % rows == 0 and rows * width == count // rows * height:
                maps: Tensor = tokens[:, prefix:].transpose(1, 2).unflatten(2, (rows, count // rows))
                return maps
        return None
