"""What is computed again is the same, counts once, and is not kept."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import potstill
from potstill.config.load import resolve as resolve_config
from potstill.errors import ConfigError, ModelError
from potstill.losses import CE, KD, FitNet
from potstill.models import resolve
from potstill.proof import unlike
from potstill.recompute import Recomputed, blocks, spare
from potstill.schemes import Link, offline, total
from potstill.taps import Tapped
from tests.engine_case import Digits, net
from tests.test_compiled import STUDENTS, pictures


def kept(tapped: Tapped, x: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, beside parameters."""
    own = {p.data_ptr() for p in tapped.parameters()}
    found: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.data_ptr() not in own:
            found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        tapped(x)["logits"].sum().backward()
    return sum(found.values())


@pytest.mark.parametrize("kind", STUDENTS)
def test_value_gradient_and_statistics_are_the_same_to_the_bit(kind: str) -> None:
    torch.manual_seed(0)
    made, spots = STUDENTS[kind]
    student = made()
    seen = []
    for each in (Tapped(student, spots), Recomputed(Tapped(copy.deepcopy(student), spots))):
        for step in range(2):
            torch.manual_seed(step)  # of dropout
            said = each(pictures())
            torch.stack([v.square().mean() for v in said.values()]).sum().backward()
        seen.append((said, [p.grad for p in each.parameters()], each.state_dict()))
    torch.testing.assert_close(*seen, rtol=0, atol=0)
    counts = [v for k, v in seen[1][2].items() if k.endswith("num_batches_tracked")]
    assert all(int(n) == 2 for n in counts)
    assert bool(counts) == (kind != "transformer")


@pytest.mark.parametrize("kind", STUDENTS)
def test_less_is_kept(kind: str) -> None:
    tapped = Tapped(STUDENTS[kind][0]())
    x = pictures(16)
    assert kept(Recomputed(tapped), x) < 0.6 * kept(tapped, x)
    assert not any("forward" in vars(m) for m in tapped.modules()), "the net is as it was"


def test_blocks() -> None:
    resnet = resolve("zoo:resnet20", num_classes=10).module
    assert [type(b).__name__ for b in blocks(resnet)] == ["BasicBlock"] * 9
    assert blocks(nn.Sequential(nn.Linear(3, 3), nn.ReLU())) == []
    inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    assert blocks(nn.Sequential(nn.Sequential(inner), nn.Linear(3, 3))) == [inner]
    with pytest.raises(ModelError, match="Linear has no list of blocks"):
        Recomputed(Tapped(nn.Linear(3, 3)))


def test_the_student_of_a_scheme() -> None:
    torch.manual_seed(0)
    links = [Link(CE(), 0.5, teacher=None), Link(KD(), 0.5), Link(FitNet((4, 8, 8), (8, 8, 8)), at="0")]
    plain = offline(net(4), net(8), links)
    saving, batch = copy.deepcopy(plain), next(Digits().epoch(0))
    spare(saving)
    spare(saving, batch.x)
    assert isinstance(saving.nets["student"], Recomputed)
    grads = []
    for scheme in (plain, saving):
        torch.manual_seed(1)
        total(scheme(batch)).backward()
        grads.append([p.grad for p in scheme.parameters()])
    torch.testing.assert_close(*grads, rtol=0, atol=0)
    assert plain.state_dict().keys() == saving.state_dict().keys()


class Counts(nn.Module):
    """A block that remembers how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        y: Tensor = self.layer(x)
        return y


def test_a_block_that_counts_is_refused() -> None:
    odd = nn.Sequential(nn.Flatten(), nn.Sequential(Counts()), nn.Linear(64, 10))
    scheme = offline(odd, net(8), [Link(KD())])
    spare(scheme)
    with pytest.raises(ModelError, match=r"afterwards the buffer 'net\.1\.0\.runs'"):
        spare(scheme, next(Digits().epoch(0)).x)
    assert float(odd[1][0].runs) == 0


def test_what_the_proof_sees() -> None:
    torch.manual_seed(0)
    plain = Tapped(net(4, dropout=0.0))
    x = next(Digits().epoch(0)).x
    assert unlike(plain, Tapped(copy.deepcopy(plain.net)), x) is None
    other = Tapped(copy.deepcopy(plain.net))
    with torch.no_grad():
        other.net[4].bias += 0.1
    assert "what it says at 'logits'" in str(unlike(plain, other, x))
    other = Tapped(copy.deepcopy(plain.net))
    other.net[4].bias.requires_grad_(False)
    assert "other parameters have gradients: net.4.bias" in str(unlike(plain, other, x))
    other = Tapped(copy.deepcopy(plain.net))
    other.net[0][1].momentum = 0.5
    assert "afterwards the buffer 'net.0.1.running_mean'" in str(unlike(plain, other, x))


def test_a_run_learns_the_same(teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Recomputed] = []
    forward = Recomputed.forward
    monkeypatch.setattr(Recomputed, "forward", lambda self, x: used.append(self) or forward(self, x))
    settings = {"method": "at+kd", "epochs": 1, "control": False, "track": [], "quiet": True, "out": str(tmp_path)}
    student = "zoo:cnn(widths=(4, 8))"
    plain = potstill.distill(str(teacher_run), student, {"source": "digits", "limit": 200}, name="plain", **settings)
    assert not used
    again = potstill.distill(
        str(teacher_run),
        student,
        {"source": "digits", "limit": 200},
        name="again",
        checkpoint_activations=True,
        **settings,
    )
    assert len(used) > again.facts["budget"]["steps"]
    torch.testing.assert_close(plain.student.state_dict(), again.student.state_dict(), rtol=0, atol=0)


def test_not_with_compile() -> None:
    with pytest.raises(ConfigError, match="does not go with compile"):
        resolve_config(
            [], ["kind=train", "student.model=zoo:resnet8", "compile=auto", "checkpoint_activations=true"], {}
        )
