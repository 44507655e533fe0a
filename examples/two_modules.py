"""Distil one module into another, on data of one's own. Run: ``python examples/two_modules.py``."""

import sys
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import potstill


def net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * width, 10),
    )


def main(epochs: int = 10, out: str | None = None) -> None:
    digits = load_digits()
    pictures = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)  # in [0, 1]
    data = TensorDataset(pictures, torch.tensor(digits.target))
    out = out or tempfile.mkdtemp()
    teacher = potstill.train(net(32), data, epochs=epochs, out=out, name="teacher").net
    run = potstill.distill(teacher, lambda: net(2), data, method="kd", epochs=epochs, seeds=3, out=out)
    print(run.results["difference"])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
