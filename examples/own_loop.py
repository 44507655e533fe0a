"""The parts in a loop of one's own: any optimizer, any data, two teachers. Run: ``python examples/own_loop.py``."""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

from potstill import Batch, Link, Scheme, total
from potstill.losses import CE, KD, FitNet


def net(width: int) -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(16 * width, 10))


def train(scheme: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(scheme.parameters(), 1e-2)
    scheme.train()
    for epoch in range(epochs):
        for ids in torch.randperm(len(x)).split(64):
            losses = scheme(Batch(x[ids], y[ids], ids, torch.full_like(ids, epoch), progress=epoch / epochs))
            optimizer.zero_grad()
            total(losses).backward()
            optimizer.step()


def main(epochs: int = 10) -> None:
    digits = load_digits()
    x, y = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
    student, small, large = net(2), net(8), net(16)
    for teacher in (small, large):
        train(Scheme({"student": teacher}, [Link(CE(), teacher=None)]), x[:1200], y[:1200], epochs)
    links = [
        Link(CE(), 0.2, teacher=None),
        Link(KD(temperature=4.0), 0.4, teacher="small", name="kd from small"),
        Link(KD(temperature=4.0), 0.4, teacher="large", name="kd from large"),
        Link(FitNet((2, 4, 4), (16, 4, 4)), 1.0, at="0", teacher="large"),
    ]
    nets = {"student": student, "small": small, "large": large}
    train(Scheme(nets, links, frozen=["small", "large"]), x[:1200], y[:1200], epochs)
    with torch.no_grad():
        right = (student.eval()(x[1200:]).argmax(1) == y[1200:]).float().mean()
    print(f"student of two teachers: {100 * right:.1f} %")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
