"""What each process holds with ``strategy=fsdp``: bytes of parameters and optimizer state, and losses, by processes.

    python -m benchmarks.parts --processes 1 2 4

A transformer teaches a smaller one by KD and a hint, three AdamW steps on noise, by gloo on the CPU. One process holds all.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from lightning_fabric import Fabric
from torch import Tensor, nn

from potstill.engine import backward
from potstill.losses import CE, KD, FitNet
from potstill.schemes import Link, offline
from potstill.sharded import held, local, shard, strategy
from potstill.types import Batch

CLASSES, SIDE, PATCH, BATCH, STEPS = 100, 32, 8, 8, 3


class Vit(nn.Module):
    """A vision transformer without frills."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, PATCH, PATCH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, width // 64, 4 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.fc(x.mean(1))
        return out


def work(rank: int, world: int, port: int, folder: str) -> None:
    """Train three steps in one of ``world`` processes; the first writes what it holds."""
    torch.set_num_threads(1)
    ranks = {"WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in ranks.items()}})
    fabric = Fabric(accelerator="cpu", devices=world, strategy=strategy(world) if world > 1 else "auto")
    fabric.launch()
    torch.manual_seed(0)
    student, teacher = Vit(192, 6), Vit(384, 12)
    links = [Link(CE(), 0.1, teacher=None), Link(KD(), 0.9), Link(FitNet((192,), (384,)), 1.0, at="fc@in")]
    scheme = shard(offline(student, teacher, links), fabric)
    raw = torch.optim.AdamW(scheme.parameters(), lr=1e-3)
    net, optimizer = fabric.setup(scheme, raw)
    losses = []
    for step in range(STEPS):
        draw = torch.Generator().manual_seed(step)
        x, y = torch.rand(BATCH, 3, SIDE, SIDE, generator=draw), torch.randint(CLASSES, (BATCH,), generator=draw)
        mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
        ids = torch.arange(BATCH)[mine]
        _, means = backward(fabric, net, Batch(x[mine], y[mine], ids, torch.zeros_like(ids)), 1)
        optimizer.step()
        raw.zero_grad()
        losses.append(float(fabric.all_reduce(means.sum(), reduce_op="mean")))  # type: ignore[arg-type]
    moments = [v for values in raw.state.values() for v in values.values() if v.ndim]
    learning = sum(local(p).nbytes for p in scheme.parameters())
    row: dict[str, Any] = {"processes": world, "student": learning, "teacher": held(scheme)[0] - learning}
    row |= {"optimizer": sum(local(v).nbytes for v in moments), "losses": losses}
    if rank == 0:
        Path(folder, "row.json").write_text(json.dumps(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    for world in parser.parse_args().processes:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(work, (world, port, folder), nprocs=world)
            print(Path(folder, "row.json").read_text(), flush=True)


if __name__ == "__main__":
    main()
