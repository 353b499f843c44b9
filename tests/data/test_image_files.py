import pytest
import torch

from xaibench.data.image_files import read_images, write_images
from xaibench.errors import DataError


def test_images_come_back_as_they_were(tiny_task, tmp_path):
    images = tiny_task.test
    back = read_images(write_images(tmp_path / "images.safetensors", images), images.classes)
    assert torch.equal(back.images, images.images)
    assert torch.equal(back.labels, images.labels)
    assert (back.keys, back.classes, back.source) == (images.keys, images.classes, images.source)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: b"x" + content])
def test_a_damaged_file_says_so(tiny_task, tmp_path, damage):
    path = write_images(tmp_path / "images.safetensors", tiny_task.test)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="is corrupt"):
        read_images(path, tiny_task.test.classes)
