"""Make the embedded subset of Fashion-MNIST: the first 1000 training and 200 test images of each class.

    python data/make_fashion_mnist.py FOLDER

FOLDER holds the four original files (train-images-idx3-ubyte.gz, ...); Debian's package dataset-fashion-mnist
installs them in /usr/share/datasets/fashion-mnist. Each split becomes one greyscale PNG sheet of 28x28 tiles,
class after class, 100 tiles a row (train) or 40 (test), compressed without loss.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from xaibench.data.datasets import load_dataset

HERE = Path(__file__).parent / "fashion-mnist"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python data/make_fashion_mnist.py FOLDER")
    for split, per_class, columns in (("train", 1000, 100), ("test", 200, 40)):
        full = load_dataset("fashion-mnist-full", split, root=sys.argv[1])
        labels = full.labels.numpy()
        index = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in range(10)])
        tiles = full.images.numpy()[index, 0]
        rows = len(tiles) // columns
        sheet = tiles.reshape(rows, columns, 28, 28).swapaxes(1, 2).reshape(rows * 28, columns * 28)
        Image.fromarray(sheet).save(HERE / f"{split}.png", optimize=True)
        print(f"{split}: {len(tiles)} images, {(HERE / f'{split}.png').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
