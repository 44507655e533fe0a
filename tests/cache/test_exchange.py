"""Processes that train in step and fill one store, or one a machine, give what one process gives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from lightning_fabric import Fabric

from potstill.cache import Cached, Store
from potstill.cache.exchange import exchange
from potstill.data import Stream
from potstill.schemes import Scheme, total
from tests.cache.test_net import VIEWS, cache, data, scheme

BATCH, CYCLE, EPOCHS = 8, 2, 4


def fabric_of(rank: int, world: int, port: int) -> Fabric:
    torch.set_num_threads(1)
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in here.items()})
    fabric = Fabric(accelerator="cpu", devices=world, strategy="ddp")
    fabric.launch()
    return fabric


def train(s: Scheme, fabric: Fabric) -> torch.Tensor:
    """The student's weights after a few epochs of this process's share."""
    net = fabric.setup_module(s)
    optimizer = torch.optim.SGD(s.parameters(), 0.05)
    share = {"rank": fabric.global_rank, "world": fabric.world_size}
    for e in range(EPOCHS):
        for batch in Stream(data(), BATCH, seed=4, views=VIEWS, cycle=CYCLE, **share).epoch(e):
            fabric.backward(total(net(batch)))
            optimizer.step()
            optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in s.parameters()])


def cached(folder: Path) -> tuple[Scheme, Cached]:
    s = scheme()
    s.nets["teacher"] = net = cache(folder, s.nets["teacher"], cycle=CYCLE)  # type: ignore[arg-type]
    return s, net


def work(rank: int, world: int, folder: str, port: int) -> None:
    fabric, said = fabric_of(rank, world, port), dict[str, Any]()
    rows = np.arange(rank * 10, rank * 10 + rank)  # rank 0 has nothing new
    device = torch.device("cpu")
    got = exchange(rows, np.repeat(rows[:, None], 16, 1).astype(np.uint8), rank == 1, device)
    said["got"] = got[0].tolist(), bool((got[1] == got[0][:, None]).all()), got[2]
    said["none new"] = exchange(rows[:0], np.empty((0, 16), np.uint8), rank == 1, device)[2]
    said["none writes"] = exchange(rows, np.zeros((rank, 16), np.uint8), False, device)[2]
    said["live"] = train(scheme(), fabric)
    for name, home in ("shared", Path(folder) / "shared"), ("apart", Path(folder) / f"machine{rank // 2}"):
        s, net = cached(home)
        fabric.barrier()
        net.together = True
        said[name] = train(s, fabric)
        said[f"{name} asked"], said[f"{name} goes on"] = net.asked, net.together
        net.store.close()
    torch.save(said, f"{folder}/{rank}.pt")


def stores(folder: Path) -> list[Store]:
    return [Store.at(meta.parent) for meta in sorted(folder.glob("*/*/meta.json"))]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What 2 and 4 processes left; they are forks of one that has loaded all, and has not used it yet."""
    folder = tmp_path_factory.mktemp("filled")
    command = [sys.executable, "-m", "tests.cache.test_exchange", str(folder)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], timeout=300)
    return folder


@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_fill_one_store_or_one_a_machine(filled: Path, tmp_path: Path, world: int) -> None:
    many = [torch.load(filled / str(world) / f"{rank}.pt", weights_only=True) for rank in range(world)]
    s, net = cached(tmp_path / "one")
    train(s, Fabric(accelerator="cpu", devices=1))
    assert net.store.finished
    made = stores(filled / str(world))
    assert len(made) == 1 + world // 2, "one where the folder is shared, and one a machine where it is not"
    for store in made:
        assert store.finished
        assert store.verify() == len(net.store.sums)
        assert (store.id_at == net.store.id_at).all()
        mine, theirs = (net.layout.decode(torch.tensor(s.records)) for s in (net.store, store))
        for spot in mine:
            torch.testing.assert_close(theirs[spot], mine[spot], rtol=1e-3, atol=1e-4)
    for said in many:
        expected = [10 * r + i for r in range(world) for i in range(r)]
        assert said["got"] == (expected, True, True)
        assert said["none new"]
        assert not said["none writes"]
        for name in ("shared", "apart"):
            torch.testing.assert_close(said[name], said["live"], rtol=1e-3, atol=1e-4)
            assert said[f"{name} asked"] == len(net.store.sums) // world, "each asks about its own samples, once"
            assert not said[f"{name} goes on"], "they stop talking when all is there"
        assert torch.equal(said["shared"], many[0]["shared"])


if __name__ == "__main__":
    for world in (2, 4):
        home = Path(sys.argv[1], str(world))
        home.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.start_processes(work, (world, str(home), port), nprocs=world, start_method="fork")
