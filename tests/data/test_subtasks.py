import pytest
import torchvision

from xaibench.data.subtasks import CLASS_LISTS, IMAGENET_FOLDERS, SUBTASKS, Subtask, subtask
from xaibench.errors import DataError, UnknownNameError

CIFAR100 = CLASS_LISTS["cifar100"]


def test_the_superclasses_part_cifar100():
    groups = SUBTASKS["cifar100"]
    assert len(groups) == 20
    assert {len(group) for group in groups.values()} == {5}
    assert len(set(CIFAR100)) == 100
    assert list(CIFAR100) == sorted(CIFAR100)
    labels = {"apple": 0, "baby": 2, "boy": 11, "girl": 35, "man": 46, "woman": 98, "worm": 99}  # the official ones
    assert {name: CIFAR100.index(name) for name in labels} == labels


def test_fashion_classes_are_torchvisions():
    assert list(CLASS_LISTS["fashion-mnist"]) == torchvision.datasets.FashionMNIST.classes
    for group in SUBTASKS["fashion-mnist"].values():
        assert set(group) <= set(CLASS_LISTS["fashion-mnist"])


# Index -> a word of the class's name, as the groups are defined.
IMAGENET = {
    "wading-bird": {129: "spoonbill", 130: "flamingo", 134: "crane", 135: "limpkin", 138: "bustard"},
    "retriever": {205: "flat-coated", 206: "curly-coated", 207: "golden", 208: "Labrador", 209: "Chesapeake"},
    "working-dog": {242: "boxer", 243: "bull mastiff", 246: "Great Dane", 247: "Saint Bernard", 248: "Eskimo dog"},
    "domestic-cat": {281: "tabby", 282: "tiger cat", 283: "Persian", 284: "Siamese", 285: "Egyptian"},
    "bag": {414: "backpack", 636: "mailbag", 728: "plastic bag", 748: "purse", 797: "sleeping bag"},
    "bottle": {440: "beer", 720: "pill", 737: "pop", 898: "water", 907: "wine"},
    "box": {478: "carton", 492: "chest", 519: "crate", 637: "mailbox", 709: "pencil box"},
    "truck": {555: "fire engine", 569: "garbage", 717: "pickup", 864: "tow", 867: "trailer"},
}


def test_imagenet_groups_hold_the_classes_of_their_indices():
    names = CLASS_LISTS["imagenet"]
    assert len(set(names)) == 1000
    assert list(names) == torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert set(SUBTASKS["imagenet"]) == set(IMAGENET)
    for group, members in IMAGENET.items():
        assert SUBTASKS["imagenet"][group] == tuple(names[i] for i in members)
        assert all(word in names[i] for i, word in members.items())


def test_wordnet_ids_rise_with_the_class_index():
    """ImageNet-1k numbers its classes in the order of their WordNet ids, so one wrong id breaks the order."""
    names = CLASS_LISTS["imagenet"]
    assert len(IMAGENET_FOLDERS) == 40
    by_id = [names.index(IMAGENET_FOLDERS[wnid]) for wnid in sorted(IMAGENET_FOLDERS)]
    assert by_id == sorted(i for members in IMAGENET.values() for i in members)


def test_group_names_are_unique_over_all_tables():
    names = [name for table in SUBTASKS.values() for name in table]
    assert len(names) == len(set(names))
    assert "all" not in names


def test_specs():
    assert subtask("people", CIFAR100) == Subtask("people", ("baby", "boy", "girl", "man", "woman"))
    assert subtask("all", ("a", "b")) == Subtask("all", ("a", "b"))
    assert subtask(" woman, boy", CIFAR100).classes == ("woman", "boy")
    assert subtask(["woman", "boy"], CIFAR100) == subtask("woman,boy", CIFAR100)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("poeple", UnknownNameError, "unknown subtask 'poeple': did you mean 'people'"),
        ("boy, grl", UnknownNameError, "unknown class 'grl': did you mean 'girl'"),
        (["boy", "womn"], UnknownNameError, "unknown class 'womn': did you mean 'woman'"),
        ("retriever", DataError, "subtask 'retriever' needs class 'flat-coated retriever', which the data lack"),
        (["boy"], DataError, "has 1 class.*at least 2"),
        ([], DataError, "has 0 class.*at least 2"),
        ("boy,boy", DataError, "names class 'boy' twice"),
        ("", UnknownNameError, "unknown subtask ''"),
    ],
)
def test_bad_specs(spec, error, message):
    with pytest.raises(error, match=message) as caught:
        subtask(spec, CIFAR100)
    assert "\n" not in str(caught.value)


def test_only_groups_that_the_data_have_are_suggested():
    with pytest.raises(UnknownNameError) as caught:
        subtask("peopel", ("baby", "boy", "girl", "man", "woman"))
    assert "people" in str(caught.value)
    assert "retriever" not in str(caught.value)
