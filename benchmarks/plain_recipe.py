"""SubDistill written the plain way: the yardstick that `distill_speed.py` measures against.

What one would write first from the paper (arXiv 2601.05913) with torch and torchvision alone: contiguous float32, fresh
augmentation every epoch, the teacher run on every augmented batch, and for the basis one pass a layer that stores
activations and gradients of 20 random locations an image until all images are through. Nothing here is slowed down on
purpose, and nothing is taken from the package.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

LAYERS = ("layer1", "layer2", "layer3", "layer4")


@dataclass
class PlainData:
    """Training and validation images (N, C, H, W) uint8 with labels (N,), and the mean and std of their channels."""

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, images: Tensor) -> Tensor:
        return v2.functional.normalize(images.float() / 255, list(self.mean), list(self.std))


@dataclass
class PlainResult:
    """The best student by validation accuracy, the accuracy after each epoch, and where the seconds went."""

    student: nn.Module
    accuracies: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class AugmentedImages(Dataset):
    """A random crop and flip of each image, new at every reading."""

    def __init__(self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.images, self.labels = images, labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(images.shape[-1], padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def sample_layer(
    teacher: nn.Module, layer: str, batches: Iterable[Tensor], classes: Tensor, locations: int = 20
) -> tuple[Tensor, Tensor]:
    """Activations and gradients of z_(1) - z_(2) at random locations of every image: both (N * locations, d)."""
    activations, gradients = [], []
    for x in batches:
        kept: list[Tensor] = []
        handle = teacher.get_submodule(layer).register_forward_hook(partial(_keep, kept))
        logits = teacher(x.requires_grad_())[:, classes]
        handle.remove()
        top = logits.topk(2, dim=1).values
        (gradient,) = torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), kept[0])
        h, c = kept[0].detach().flatten(2), gradient.flatten(2)
        index = torch.randint(h.shape[2], (len(h), 1, locations)).expand(-1, h.shape[1], -1)
        activations.append(h.gather(2, index).permute(0, 2, 1).flatten(0, 1))
        gradients.append(c.gather(2, index).permute(0, 2, 1).flatten(0, 1))
    return torch.cat(activations), torch.cat(gradients)


def _keep(kept: list[Tensor], _module: nn.Module, _args: object, output: Tensor) -> None:
    kept.append(output)


def prca_basis(activations: Tensor, gradients: Tensor, k: int) -> tuple[Tensor, Tensor, float]:
    """The positive-definite PRCA basis: U (d, k), mean (d,), and the activation's energy within U."""
    mean = activations.mean(0)
    a = activations - mean
    n = len(a)
    c_a, c_c, c_ac = a.T @ a / n, gradients.T @ gradients / n, a.T @ gradients / n
    t_a, t_c = c_a.trace(), c_c.trace()
    matrix = c_ac + c_ac.T + 2 * (t_c / t_a).sqrt() * c_a + 2 * (t_a / t_c).sqrt() * c_c
    vectors = torch.linalg.eigh(matrix).eigenvectors.flip(1)[:, :k]
    return vectors, mean, torch.trace(vectors.T @ c_a @ vectors).item()


class LayerLoss(nn.Module):
    """|| R z(h_S) - U'(h_T - mu) ||^2 over the energy of U, z the z-score of a training batch ("peer_bn")."""

    def __init__(self, vectors: Tensor, mean: Tensor, energy: float) -> None:
        super().__init__()
        k = vectors.shape[1]
        self.vectors, self.mean, self.energy = vectors, mean, energy
        self.running_mean, self.running_var = torch.zeros(k), torch.ones(k)
        self.rotation = parametrizations.orthogonal(nn.Linear(k, k, bias=False))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        target = torch.einsum("bdhw,dk->bkhw", teacher - self.mean[:, None, None], self.vectors)
        centred = F.batch_norm(student, self.running_mean, self.running_var, training=True)
        rotated = torch.einsum("bkhw,jk->bjhw", centred, self.rotation.weight)
        return ((rotated - target) ** 2).sum(1).mean() / self.energy


def train_plain(
    teacher: nn.Module, student: nn.Module, classes: list[int], data: PlainData, *, epochs: int, seed: int
) -> PlainResult:
    """Distil a copy of `student` from `teacher`, whose logits at `classes` are those of the subtask.

    KD at T = 4 with weight 1, layer losses with weight 100, AdamW at 1e-3 halved every 25 epochs, batches of 64; the
    student of the best validation accuracy is kept.
    """
    torch.manual_seed(seed)
    teacher, student = _not_in_place(teacher).eval().requires_grad_(False), _not_in_place(student)
    columns = torch.tensor(classes)
    seconds = dict.fromkeys(("basis", "training", "validation"), 0.0)

    started = time.perf_counter()
    unaugmented = data.normalise(data.train)
    widths = [student.get_submodule(name)[-1].bn2.num_features for name in LAYERS]
    losses = nn.ModuleList()
    for name, width in zip(LAYERS, widths):
        samples = sample_layer(teacher, name, (x.clone() for x in unaugmented.split(64)), columns)
        losses.append(LayerLoss(*prca_basis(*samples, width)))
    seconds["basis"] = time.perf_counter() - started

    teacher_maps, student_maps = {}, {}
    for model, maps in ((teacher, teacher_maps), (student, student_maps)):
        for name in LAYERS:
            model.get_submodule(name).register_forward_hook(
                lambda _module, _args, output, maps=maps, name=name: maps.__setitem__(name, output)
            )
    optimizer = torch.optim.AdamW([*student.parameters(), *losses.parameters()], lr=1e-3, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 25, 0.5)
    loader = DataLoader(
        AugmentedImages(data.train, data.train_labels, data.mean, data.std), batch_size=64, shuffle=True
    )
    validation = data.normalise(data.validation)
    accuracies: list[float] = []
    best = copy.deepcopy(student.state_dict())
    for _ in range(epochs):
        started = time.perf_counter()
        student.train()
        for x, _labels in loader:
            with torch.no_grad():
                teacher_logits = teacher(x)[:, columns]
            logits = student(x)
            loss = 16 * F.kl_div(
                F.log_softmax(logits / 4, 1),
                F.log_softmax(teacher_logits / 4, 1),
                reduction="batchmean",
                log_target=True,
            )
            for name, layer_loss in zip(LAYERS, losses):
                loss = loss + 100 * layer_loss(student_maps[name], teacher_maps[name])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        seconds["training"] += time.perf_counter() - started

        started = time.perf_counter()
        student.eval()
        with torch.no_grad():
            predicted = torch.cat([student(x).argmax(1) for x in validation.split(256)])
        accuracy = (predicted == data.validation_labels).double().mean().item()
        if accuracy > max(accuracies, default=-1.0):
            best = copy.deepcopy(student.state_dict())
        accuracies.append(accuracy)
        seconds["validation"] += time.perf_counter() - started
    student.load_state_dict(best)
    return PlainResult(student.eval(), accuracies, seconds)


def _not_in_place(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model
