"""Codecs: what comes back, and how far it is from what went in."""

from __future__ import annotations

import pytest
import torch

from potstill.cache import CODECS, Layout, codec, divergence
from potstill.errors import ConfigError, ModelError
from potstill.losses import AB


def logits(n: int = 64, classes: int = 100, seed: int = 0) -> torch.Tensor:
    """As of a trained net: one class stands out."""
    g = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(n, classes, generator=g)
    z[torch.arange(n), torch.randint(classes, (n,), generator=g)] += 12
    return z + 5 * torch.randn(n, 1, generator=g)


@pytest.mark.parametrize("shape", [(100,), (7,), (3, 5, 5), (4, 9)])
@pytest.mark.parametrize(("kind", "bound"), [("float16", 6e-4), ("float32", 0.0), ("int8", 1 / 250)])
def test_every_value_comes_back_within_the_bound_of_its_codec(kind: str, bound: float, shape: tuple[int, ...]) -> None:
    t = torch.randn(16, *shape, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 16).view(
        -1, *[1] * len(shape)
    )
    c = codec(kind, shape)
    packed = c.encode(t)
    assert (packed.dtype, tuple(packed.shape)) == (torch.uint8, (16, c.nbytes))
    back = c.decode(packed)
    assert (back.dtype, back.shape) == (torch.float32, t.shape)
    reach = t.abs().flatten(1).amax(1).view(-1, *[1] * len(shape))
    assert ((back - t).abs() <= bound * reach).all()
    assert torch.equal(c.decode(c.encode(t[3:4])), back[3:4]), "a record depends on its sample alone"
    if len(shape) == 3:
        assert back.is_contiguous(memory_format=torch.channels_last), "as the student's maps are"
        assert torch.equal(c.encode(t.contiguous(memory_format=torch.channels_last)), packed)


def test_sizes_are_those_of_the_plan() -> None:
    assert [codec(k, (100,)).nbytes for k in ("float16", "int8")] == [200, 104]
    assert codec("signs", (14336 * 8,)).nbytes == 14336
    assert codec("topk", (1000,), k=20).nbytes == 2 + 20 * 4
    assert codec("topk", (50_000,), k=20).nbytes == 2 + 20 * 6


@pytest.mark.parametrize(("kind", "bound"), [("float16", 1e-6), ("int8", 1e-4), ("topk", 0.05)])
def test_what_packing_logits_costs_in_divergence(kind: str, bound: float) -> None:
    z = logits()
    lost = Layout.of({"logits": z}, kind).errors({"logits": z})["logits"]
    assert 0 < lost < bound
    assert lost == pytest.approx(divergence(z, codec(kind, (100,)).decode(codec(kind, (100,)).encode(z))))


def test_int8_keeps_a_row_of_equal_and_of_huge_values() -> None:
    z = torch.tensor([[3.0, 3.0, 3.0], [1000.0, 1000.5, 1001.0], [0.0, 0.0, 0.0]])
    c = codec("int8", (3,))
    torch.testing.assert_close(c.decode(c.encode(z)), z, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("classes", [1000, 40_000])
def test_topk_keeps_the_probabilities_of_the_best_and_the_mass_of_the_rest(classes: int) -> None:
    z = logits(8, classes)
    c = codec("topk", (classes,), k=20, temperature=4.0)
    back = c.decode(c.encode(z))
    p, q = (x / 4 for x in (z, back))
    p, q = p.softmax(1), q.softmax(1)
    top = p.topk(20, 1)
    torch.testing.assert_close(q.gather(1, top.indices), top.values, rtol=5e-3, atol=0)
    torch.testing.assert_close(q.gather(1, top.indices).sum(1), top.values.sum(1), rtol=5e-3, atol=0)
    rest = q.scatter(1, top.indices, -1)
    assert all(r[r >= 0].unique().numel() == 1 for r in rest)


def test_signs_are_all_that_ab_reads() -> None:
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(4, 3, 5, 5, generator=g), torch.randn(4, 3, 5, 5, generator=g)
    t[0, 0, 0] = 0.0
    c, loss = codec("signs", (3, 5, 5)), AB((3, 5, 5), (3, 5, 5))
    assert torch.equal(loss(s, t.contiguous(memory_format=torch.channels_last)), loss(s, c.decode(c.encode(t))))


def test_a_layout_packs_every_spot_into_one_record() -> None:
    said = {"logits": logits(5, 10), "fc@in": torch.randn(5, 7), "a": torch.randn(5, 3, 3, 3)}
    layout = Layout.of(said, "int8", {"a": "signs"})
    assert {k: f.kind for k, f in layout.fields.items()} == {"logits": "int8", "fc@in": "float16", "a": "signs"}
    packed = layout.encode(said)
    assert packed.shape == (5, layout.nbytes)
    assert layout.nbytes % 8 == 0
    back = layout.decode(packed)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in said.items()}
    torch.testing.assert_close(back["fc@in"], said["fc@in"], rtol=1e-3, atol=1e-3)
    assert torch.equal(back["a"] > 0, said["a"] > 0)
    again = Layout.from_json(layout.to_json())
    assert again == layout
    assert [f.get("order") for f in layout.to_json().values()] == ["HWC", None, None], "of maps, in the key"
    assert layout.errors(said)["a"] == 0
    with pytest.raises(ModelError, match="fc@in"):
        layout.encode({**said, "fc@in": torch.randn(5, 8)})


def test_what_float16_cannot_hold_is_refused() -> None:
    for kind in ("float16", "int8", "topk"):
        c = codec(kind, (30,))
        with pytest.raises(ModelError, match=r"float16|int8"):
            c.encode(torch.tensor([[1e8] + [-1e8] * 29]))
    with pytest.raises(ConfigError, match="int8"):
        codec("int9", (3,))
    with pytest.raises(ConfigError, match="more than k="):
        codec("topk", (10,), k=10)
    assert sorted(CODECS) == ["float16", "float32", "int8", "signs", "topk"]
