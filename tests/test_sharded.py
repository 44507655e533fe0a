"""Several processes, with a part of the batch each, give what one gives: with whole nets (DDP), and with parts of them (FSDP)."""

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from lightning_fabric import Fabric
from torch import Tensor, nn

from potstill import engine
from potstill.config.load import resolve
from potstill.engine import Stage, fit
from potstill.errors import ConfigError, InterruptedRun, MachineError, ModelError
from potstill.losses import AT, CE, KD, FitNet
from potstill.machines import make_fabric
from potstill.optim import make_optimizer, make_scheduler
from potstill.schemes import Link, offline
from potstill.sharded import held, load_optimizer, shard, strategy, units
from tests.engine_case import Digits, weights

EPOCHS, STEPS = 2, 5


class Block(nn.Module):
    """A residual block that says in which type it was run."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        self.norm, self.second = nn.GroupNorm(2, width), nn.Conv2d(width, width, 3, padding=1)
        self.ran: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.ran |= {self.first.weight.dtype, self.norm.weight.dtype}
        return x + self.second(self.norm(self.act(self.first(x))))


def net(width: int) -> nn.Module:
    stem = nn.Conv2d(1, width, 3, padding=1)
    body = nn.Sequential(Block(width), nn.ReLU(inplace=True), Block(width))
    return nn.Sequential(stem, body, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * width, 10))


class Counting(CE):
    """Has a buffer that a process fills with what is its own: its first sample."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.zeros(()))

    def forward(self, s: Tensor, t: Tensor | None = None, batch: Any = None) -> Tensor:
        self.before = float(self.first)
        self.first.fill_(float(batch.ids[0]))
        return super().forward(s, t, batch)


def stage(kind: str, share: tuple[int, int] = (0, 1)) -> Stage:
    """``kd``; ``features``: spots inside of blocks and an adapter; ``hint``: no gradient comes from the end of the net."""
    torch.manual_seed(0)
    student, teacher = net(4), net(8)
    links = [Link(CE(), 0.5, teacher=None), Link(KD(), 0.02)]
    if kind == "features":
        links.append(Link(AT(), 100.0, at=["1.0.first", "1.2.act@in", "1"]))
        links.append(Link(FitNet((64,), (128,)), 1.0, at="4@in"))
    if kind == "hint":
        links = [Link(AT(), 1000.0, at=["1.0.act"])]
    return Stage(
        name="distil",
        scheme=offline(student, teacher, links),
        stream=Digits(share=share),
        epochs=EPOCHS,
        optimizer=make_optimizer("adamw", lr=1e-2) if kind == "kd" else make_optimizer("sgd", lr=0.1, momentum=0.9),
        scheduler=make_scheduler("cosine", EPOCHS),
        clip=0.5 if kind == "features" else None,
        accumulate=2 if kind == "features" else 1,
    )


def trained(kind: str, fabric: Fabric, share: tuple[int, int], **options: Any) -> dict[str, Any]:
    s, rows = stage(kind, share), list[dict[str, Any]]()
    fit([s], fabric, on_epoch=rows.append, **options)
    return {"weights": weights(s), "losses": [row["train"]["loss"] for row in rows]}


def torn(kind: str, fabric: Fabric, share: tuple[int, int], folder: Path, after: int = STEPS + 2) -> None:
    """Train up to a step inside the second epoch, and leave the state there."""
    steps: list[int] = []
    with pytest.raises(InterruptedRun):
        fit(
            [stage(kind, share)],
            fabric,
            folder=folder,
            on_step=lambda s, at, n: steps.append(at.total_steps),
            should_stop=lambda: len(steps) >= after,
        )


def work(rank: int, world: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    ranks = {"WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in ranks.items()}})
    whole, fabric, half = (
        Fabric(accelerator="cpu", devices=world, strategy=how, precision=precision)
        for how, precision in (("ddp", "32-true"), (strategy(world), "32-true"), (strategy(world), "bf16-mixed"))
    )
    for each in (whole, fabric, half):
        each.launch()
    engine.TOGETHER = 1  # processes agree at each step whether to stop
    home, share = Path(folder), (rank, world)
    out: dict[str, Any] = {kind: trained(kind, fabric, share) for kind in ("kd", "features", "hint")}
    out |= {f"{kind}, ddp": trained(kind, whole, share) for kind in ("kd", "features")}
    out["one's"] = trained("features", fabric, share, folder=home / "one")  # begun by one process
    torn("features", fabric, share, home / "parts")
    fabric.barrier()
    if rank == 0:
        shutil.copytree(home / "parts", home / "for one")
    fabric.barrier()
    out["resumed"] = trained("features", fabric, share, folder=home / "parts")

    made = shard(stage("features", share).scheme, fabric)
    out["held"] = held(made)
    counting = shard(offline(net(4), net(8), [Link(Counting(), teacher=None)]), fabric)
    for batch in list(Digits(share=share).epoch(0))[:2]:
        counting(batch)["counting"].mean().backward()
    out["before"] = counting.links[0].loss.before
    s = shard(stage("features", share).scheme, half)
    raw = torch.optim.SGD(s.parameters(), lr=0.1)
    wrapped, _ = half.setup(s, raw)
    said = wrapped(next(stage("kd", share).stream.epoch(0)))
    half.backward(sum(loss.mean() for loss in said.values()))
    out["ran"] = sorted(map(str, s.nets["student"].net[1][0].ran))
    out["gradient"] = torch.cat([p.grad.full_tensor().flatten() for p in s.parameters()])
    torch.save(out, home / f"{rank}.pt")


def spawn(world: int, folder: Path) -> list[dict[str, Any]]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(work, (world, str(folder), port), nprocs=world)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_parts_learn_what_whole_nets_learn(world: int, tmp_path: Path) -> None:
    alone = Fabric(accelerator="cpu", devices=1)
    torn("features", alone, (0, 1), tmp_path / "one")
    each = spawn(world, tmp_path)
    one = {kind: trained(kind, alone, (0, 1)) for kind in ("kd", "features", "hint")}
    for kind in each[0].keys() & {*one, "kd, ddp", "features, ddp", "one's", "resumed"}:
        whole = one.get(kind.removesuffix(", ddp"), one["features"])
        for got in each:
            assert got[kind]["losses"][-1] == pytest.approx(whole["losses"][-1], rel=1e-4), kind
            torch.testing.assert_close(got[kind]["weights"], whole["weights"], rtol=1e-3, atol=1e-5)
        assert all(torch.equal(got[kind]["weights"], each[0][kind]["weights"]) for got in each)
    for got in each:
        if world == 2:  # to the last bit: of more numbers DDP and FSDP form the sum in another order
            assert torch.equal(got["kd"]["weights"], got["kd, ddp"]["weights"])
        assert torch.equal(got["resumed"]["weights"], got["features"]["weights"])
        assert got["resumed"]["losses"] == got["features"]["losses"][-1:]
    ended = trained("features", alone, (0, 1), folder=tmp_path / "for one")
    torch.testing.assert_close(ended["weights"], one["features"]["weights"], rtol=1e-3, atol=1e-5)

    here, all_of_it = zip(*(got["held"] for got in each), strict=True)
    assert sum(here) == all_of_it[0]
    assert max(here) < 1.4 / world * all_of_it[0]
    first = next(Digits(share=(0, world)).epoch(0)).ids[0]
    assert [got["before"] for got in each] == [float(first)] * world
    s = stage("features").scheme
    sum(loss.mean() for loss in s(next(Digits().epoch(0))).values()).backward()
    whole = torch.cat([p.grad.flatten() for p in s.parameters()])
    for got in each:
        assert got["ran"] == ["torch.bfloat16", "torch.float32"]
        assert 0 < (got["gradient"] - whole).norm() < 0.1 * whole.norm()


def test_units() -> None:
    from potstill.models.resolve import resolve as make

    resnet = make("zoo:resnet8x4", num_classes=10, in_channels=3).module
    blocks = [m for name, m in resnet.named_modules() if type(m).__name__ == "BasicBlock"]
    assert len(blocks) == 3
    assert units(resnet) == blocks

    small = net(4)
    assert units(small) == [small[1][0], small[1][2], small[4]]  # the last layer holds most parameters
    small[1][2].second.weight = small[1][0].second.weight
    assert units(small) == [small[4]]


def test_a_single_number_has_no_parts() -> None:
    scheme = offline(net(4), net(8), [Link(KD())])
    scheme.links[0].loss.scale = nn.Parameter(torch.tensor(1.0))
    fabric = Fabric(accelerator="cpu", devices=1)
    assert shard(scheme, fabric) is scheme
    fabric._strategy = strategy(2)
    with pytest.raises(ModelError, match=r"'links.0.loss.scale' is a single number"):
        shard(scheme, fabric)


def test_how_an_optimizer_computes_is_its_own() -> None:
    layer = nn.Linear(2, 2)
    fused, plain = torch.optim.SGD(layer.parameters(), momentum=0.9, fused=True), torch.optim.SGD(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    fused.step()
    load_optimizer(plain, fused.state_dict())
    assert plain.param_groups[0]["fused"] is None
    assert plain.param_groups[0]["momentum"] == 0.9
    assert plain.state[layer.weight]["momentum_buffer"].abs().sum() > 0


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("spots=adaptive", "spots: does not go with strategy=fsdp"),
        ("compile=auto", "compile: does not go with strategy=fsdp"),
        ("precision=16", "precision: does not go with strategy=fsdp"),
        ("teacher.speed=fast", "teacher.speed: does not go with strategy=fsdp"),
        ("optim.fused=true", "optim.fused: does not go with strategy=fsdp"),
        ("optim=muon", "optim.name: does not go with strategy=fsdp"),
    ],
)
def test_what_cannot_be_in_parts_is_refused(setting: str, why: str) -> None:
    whole = ["student=zoo:resnet8", "teacher=zoo:resnet8", "device=cpu"]
    resolve([], [*whole, setting], {})
    with pytest.raises(ConfigError, match=why):
        resolve([], [*whole, setting, "strategy=fsdp"], {})


def test_one_process_has_nothing_to_share() -> None:
    config = resolve([], ["student=zoo:resnet8", "teacher=zoo:resnet8", "device=cpu", "strategy=fsdp"], {}).config
    with pytest.raises(MachineError, match="here is one") as caught:
        make_fabric(config)
    assert "devices=N" in str(caught.value.hint)
