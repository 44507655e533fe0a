"""Two processes, half a batch each, give the gradients of one process with the joined batch."""

from pathlib import Path

import torch
import torch.multiprocessing as mp
from lightning_fabric import Fabric

from potstill.engine import backward, fit
from tests.engine_case import Digits, stage, weights


def work(rank: int, folder: str, port: int) -> None:
    import os

    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank)
    )
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    s = stage(norm=False, dropout=0.0, stream=Digits(share=(rank, 2)))
    net = fabric.setup_module(s.scheme)
    backward(fabric, net, next(s.stream.epoch(0)), 2)
    grads = torch.cat([p.grad.flatten() for p in s.scheme.parameters()])
    rows: list[dict] = []
    trained = stage(norm=False, dropout=0.0, stream=Digits(share=(rank, 2)))
    fit([trained], fabric, on_epoch=rows.append)
    torch.save({"grads": grads, "weights": weights(trained), "loss": rows[-1]["train"]["loss"]}, f"{folder}/{rank}.pt")


def test_two_processes_equal_one(tmp_path: Path) -> None:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(work, (str(tmp_path), port), nprocs=2)
    two = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]

    fabric = Fabric(accelerator="cpu", devices=1)
    one = stage(norm=False, dropout=0.0)
    net = fabric.setup_module(one.scheme)
    backward(fabric, net, next(one.stream.epoch(0)), 1)
    expected = torch.cat([p.grad.flatten() for p in one.scheme.parameters()])
    rows: list[dict] = []
    trained = stage(norm=False, dropout=0.0)
    fit([trained], fabric, on_epoch=rows.append)
    assert expected.abs().max() > 1e-3
    for r in range(2):
        torch.testing.assert_close(two[r]["grads"], expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(two[r]["weights"], weights(trained), rtol=1e-3, atol=1e-5)
        assert abs(two[r]["loss"] - rows[-1]["train"]["loss"]) < 1e-4
    assert torch.equal(two[0]["weights"], two[1]["weights"])
