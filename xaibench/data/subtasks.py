"""Named groups of classes: the domains that a student becomes an expert in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from xaibench.errors import DataError, unknown_name
from xaibench.validation import checked

__all__ = ["CLASS_LISTS", "IMAGENET_FOLDERS", "SUBTASKS", "Subtask", "subtask"]


@checked
@dataclass(frozen=True)
class Subtask:
    """A few classes of a dataset, in the order of the student's logits."""

    name: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise DataError(f"subtask '{self.name}' has {len(self.classes)} class(es): a classifier needs at least 2")
        double = [c for i, c in enumerate(self.classes) if c in self.classes[:i]]
        if double:
            raise DataError(f"subtask '{self.name}' names class '{double[0]}' twice: name each once")


_CIFAR100: dict[str, tuple[str, ...]] = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}

_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# The names that torchvision gives the 1000 classes.
_IMAGENET_CLASSES = tuple(
    (resources.files("xaibench.data") / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
)

# Index in the ImageNet-1k order -> WordNet id, the usual name of the class's folder.
_IMAGENET: dict[str, dict[int, str]] = {
    "wading-bird": {129: "n02006656", 130: "n02007558", 134: "n02012849", 135: "n02013706", 138: "n02018795"},
    "retriever": {205: "n02099267", 206: "n02099429", 207: "n02099601", 208: "n02099712", 209: "n02099849"},
    "working-dog": {242: "n02108089", 243: "n02108422", 246: "n02109047", 247: "n02109525", 248: "n02109961"},
    "domestic-cat": {
        281: "n02123045",
        282: "n02123159",
        283: "n02123394",
        284: "n02123597",
        285: "n02124075",
    },
    "bag": {414: "n02769748", 636: "n03709823", 728: "n03958227", 748: "n04026417", 797: "n04235860"},
    "bottle": {440: "n02823428", 720: "n03937543", 737: "n03983396", 898: "n04557648", 907: "n04591713"},
    "box": {478: "n02971356", 492: "n03014705", 519: "n03127925", 637: "n03710193", 709: "n03908618"},
    "truck": {555: "n03345487", 569: "n03417042", 717: "n03930630", 864: "n04461696", 867: "n04467665"},
}

IMAGENET_FOLDERS: dict[str, str] = {
    wnid: _IMAGENET_CLASSES[index] for group in _IMAGENET.values() for index, wnid in group.items()
}

CLASS_LISTS: dict[str, tuple[str, ...]] = {
    "cifar100": tuple(sorted(name for group in _CIFAR100.values() for name in group)),
    "fashion-mnist": _FASHION,
    "imagenet": _IMAGENET_CLASSES,
}

SUBTASKS: dict[str, dict[str, tuple[str, ...]]] = {
    "fashion-mnist": {
        "tops": ("T-shirt/top", "Pullover", "Coat", "Shirt"),
        "footwear": ("Sandal", "Sneaker", "Ankle boot"),
    },
    "cifar100": _CIFAR100,
    "imagenet": {name: tuple(_IMAGENET_CLASSES[i] for i in group) for name, group in _IMAGENET.items()},
}


@checked
def subtask(spec: str | Sequence[str], available: Sequence[str]) -> Subtask:
    """The subtask that `spec` names among the classes `available` in the data.

    spec  "all", a name in `SUBTASKS` ("people", "tops", "retriever"), or class names (a list, or joined by commas)

    Raises UnknownNameError with the nearest valid name; a named subtask whose classes the data lack says which.
    """
    if not isinstance(spec, str):
        return _checked(Subtask("custom", tuple(spec)), available)
    if spec == "all":
        return Subtask("all", tuple(available))
    if "," in spec:
        return _checked(Subtask("custom", tuple(name.strip() for name in spec.split(","))), available)
    groups = {name: classes for table in SUBTASKS.values() for name, classes in table.items()}
    if spec not in groups:
        usable = [name for name, classes in groups.items() if set(classes) <= set(available)]
        raise unknown_name("subtask", spec, ["all", *usable, *available])
    missing = [name for name in groups[spec] if name not in available]
    if missing:
        raise DataError(
            f"subtask '{spec}' needs class '{missing[0]}', which the data lack (they have {len(available)} classes: "
            f"{', '.join(list(available)[:5])}, ...): choose another dataset or subtask"
        )
    return Subtask(spec, groups[spec])


def _checked(task: Subtask, available: Sequence[str]) -> Subtask:
    for name in task.classes:
        if name not in available:
            raise unknown_name("class", name, available)
    return task
