"""Putting a store in a teacher's place, and the commands that look after stores."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from potstill.cache import Layout, Plan, Shelf, estimate, install
from potstill.cache.exam import examined
from potstill.cache.shelf import size
from potstill.commands.cache import app
from potstill.data import Stream, Views
from potstill.errors import ConfigError, DataError, MachineError, ModelError
from potstill.taps import Frozen, Tapped

from .test_net import VIEWS, N, data, teacher

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def put(folder: Path, plan: Plan | None = None, seed: int = 1, **changed: Any) -> Any:
    given: dict[str, Any] = {"data": data(), "fingerprint": "f", "views": VIEWS, "name": "zoo:small", **changed}
    return install(Frozen(Tapped(teacher(seed), ["a"])), plan or Plan(2, "int8", folder=folder), X, **given)


def fill(net: Any) -> None:
    for e in range(2):
        for batch in Stream(data(), 8, views=VIEWS, cycle=2).epoch(e):
            net(batch)


def test_a_store_is_put_in_a_teachers_place_filled_and_found_again(tmp_path: Path) -> None:
    net, lines = put(tmp_path)
    assert "2 view(s) of 20 pictures" in lines[0]
    assert "0 % there" in lines[0]
    assert re.search(r"loses.*a \d.*e-04, logits \d.*e-0", lines[1])
    fill(net)
    again, lines = put(tmp_path)
    assert again.store.finished
    assert "100 % there" in lines[0]
    assert "32 of its records" in lines[-1]
    assert put(tmp_path, Plan(2, "float16", folder=tmp_path))[0].store.left == 2 * N
    assert put(tmp_path, fingerprint="g")[0].store.left == 2 * N
    assert put(tmp_path, precision="bf16")[0].store.left == 2 * N
    assert put(tmp_path, seed=5)[0].store.left == 2 * N
    assert len(Shelf(tmp_path).names()) == 5
    assert (
        put(tmp_path, seed=1, given=Tapped(teacher(5), ["a"]))[0].store.folder == put(tmp_path, seed=5)[0].store.folder
    )


def test_a_store_with_other_content_is_found_out_at_the_start(tmp_path: Path) -> None:
    net, _ = put(tmp_path)
    with torch.no_grad():
        net.live.net.net.fc.bias += 1.0  # changed after its key was made
    fill(net)
    with pytest.raises(ModelError, match="not of this teacher"):
        put(tmp_path)


def test_what_cannot_be_kept_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mixup"):
        put(tmp_path, views=Views(mixup=0.2))
    with pytest.raises(ConfigError, match="spot-adaptive"):
        put(tmp_path, routes=True)
    with pytest.raises(MachineError, match="does not fit"):
        put(tmp_path, Plan(10**9, folder=tmp_path))
    assert Shelf(tmp_path).names() == []


def test_what_it_will_cost() -> None:
    layout = Layout.of({"logits": torch.zeros(2, 100)}, "int8")
    assert estimate(layout, 45_000, 4, 240) == (45_000 * 4 * 112, pytest.approx(236 / 240))
    assert estimate(layout, 10, 4, 2)[1] == 0
    assert [size(n) for n in (104, 18_720_000, 2.5e12)] == ["104 B", "18.7 MB", "2.5 TB"]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_commands_list_verify_and_remove(tmp_path: Path) -> None:
    where = ("--dir", str(tmp_path))
    assert "no caches" in run("ls", *where)
    assert "no caches" in run("verify", *where)
    net, _ = put(tmp_path)
    name = net.store.folder.name
    (row,) = json.loads(run("ls", "--json", *where))
    assert (row["name"], row["teacher"], row["views"], row["samples"], row["filled"]) == (name, "zoo:small", 2, N, 0)
    assert row["spots"] == {"a": "float16", "logits": "int8"}
    with pytest.raises(MachineError, match="writes"):
        run("rm", name, *where)
    fill(net)
    assert "100 %" in run("ls", *where)
    assert "40 records" in run("verify", name[:6], *where)
    assert run("verify", *where) == run("verify", name, *where)
    path = net.store.folder / "records.bin"
    content = bytearray(path.read_bytes())
    content[-1 - (-len(content) % 8)] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        run("verify", *where)
    with pytest.raises(ConfigError, match="no cache 'nope'"):
        run("verify", "nope", *where)
    examined(Shelf(tmp_path).exams, {}, lambda: ({}, X))
    assert "validation and test pictures" in run("ls", *where)
    assert "freed" in run("rm", name[:6], "exams", *where)
    assert "validation" not in run("ls", *where)
    assert Shelf(tmp_path).names() == []
    assert not net.store.folder.exists()
