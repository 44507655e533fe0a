"""SimKD's student is delivered with a projector and the teacher's classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import potstill
from potstill.cli import run as cli
from potstill.deliver import Delivery
from potstill.errors import InterruptedRun, ModelError, RefusedError
from potstill.losses._maps import as_map
from potstill.methods import expand
from potstill.methods.build import build
from potstill.methods.probe import look
from potstill.models import load_student, resolve
from potstill.models.net import Net
from potstill.models.resolve import save_student
from potstill.models.reused import Head, Reused
from potstill.trial import Stop
from tests.methods.test_probe import Vgg, Vit

STUDENT = "zoo:cnn(widths=(4, 8))"
X = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


PAIRS = {
    "zoo": lambda: (resolve("resnet8", num_classes=5), resolve("wrn_16_1", num_classes=5)),
    "user": lambda: (Net(Vgg(inplace=False), "object:Vgg"), Net(Vgg((8, 12, 16, 20)), "object:Vgg")),
    "tokens": lambda: (Net(Vit(3, 8), "object:Vit"), Net(Vgg((8, 12, 16)), "object:Vgg")),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_it_says_what_the_loss_says_of_its_head(pair: str) -> None:
    torch.manual_seed(0)
    student, teacher = PAIRS[pair]()
    built = build(student.module, teacher.module, expand("simkd"), X)
    assert not built.notices or "adapters" in built.notices[0]
    delivery = Delivery(student, built)
    delivered = delivery.net.module
    loss = built.scheme.links[0].loss
    built.scheme.eval()
    s, t = built.scheme.nets["student"](X), built.scheme.nets["teacher"](X)
    link = built.scheme.links[0]
    expected = loss.deployed_head()(as_map(s[link.at_s[0]]))
    torch.testing.assert_close(delivered.eval()(X), expected)
    theirs = as_map(t[link.at_t[0]])
    torch.testing.assert_close(loss.classifier(theirs.mean((2, 3))), t["logits"], rtol=1e-4, atol=1e-5)
    own = sum(p.numel() for n, p in student.module.named_parameters() if not n.startswith(built.head.own))
    parts = [*loss.projector.parameters(), loss.classifier.weight, loss.classifier.bias]
    assert sum(p.numel() for p in delivered.parameters()) == own + sum(p.numel() for p in parts)

    # its weights are those of now, and are the student's no more
    with torch.no_grad():
        next(student.module.parameters()).add_(1.0)
        loss.projector[0].weight.mul_(2.0)
    assert torch.equal(delivered(X), delivered(X))
    again = loss.deployed_head()(as_map(built.scheme.nets["student"](X)[link.at_s[0]]))
    assert not torch.allclose(delivered(X), again)
    torch.testing.assert_close(delivery.refresh().module(X), again)


@pytest.mark.parametrize("method", ["kd", "srrl"])
def test_nothing_changes_without_a_head(method: str) -> None:  # SRRL reads the teacher's head, and delivers none
    student = Net(Vgg(), "object:Vgg")
    delivery = Delivery(student, build(student.module, Vgg(), expand(method), X))
    assert delivery.refresh() is delivery.net is student


def test_the_run_delivers_one_plain_net(teacher_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--teacher", str(teacher_run), "--student", STUDENT, "--method", "simkd", "--epochs", "2"]
    assert cli(["distill", "--data", "digits", *arguments, "--name", "s", "track=[]", "data.limit=320"]) == 0
    said = capsys.readouterr().err
    path = Path("runs/s")
    facts = json.loads((path / "run.json").read_text())
    net = load_student(path)
    assert isinstance(net.module, Reused)
    assert any(line.startswith("deliver ") for line in facts["preflight"])
    assert facts["student"]["parameters"] == sum(p.numel() for p in net.module.parameters())
    assert facts["student"]["parameters"] > facts["control"]["parameters"]
    assert facts["student"]["macs"] > facts["control"]["macs"]
    assert f"{facts['control']['parameters']:,}" in next(
        line for line in said.splitlines() if line.startswith("  student alone")
    )

    # it was measured as it is delivered: on the test data, and on the validation data during training
    result = json.loads((path / f"student-s{facts['best_seed']}" / "result.json").read_text())
    for split in ("test", "val"):
        assert cli(["eval", "runs/s", "--split", split, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(result["best"][split]["top1"])
    rows = [json.loads(line) for line in (path / "student-s0" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["val"]["top1"] >= 0 for row in rows)
    assert torch.equal(load_file(path / "student.safetensors")["classifier.weight"], head_of(teacher_run))
    assert cli(["inspect", "runs/s", "--input", "1x8x8"]) == 0
    assert "body.features" in capsys.readouterr().out


def head_of(teacher_run: Path) -> torch.Tensor:
    return load_file(teacher_run / "student.safetensors")["fc.weight"]


OWN = """
from torch import nn
def make(num_classes=10, in_channels=1):
    body = nn.Sequential(nn.Conv2d(in_channels, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


def test_a_users_own_net_is_resumed_exactly_and_recorded_like_other_code(
    teacher_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own.py").write_text(OWN)
    options: dict[str, Any] = {"method": "simkd", "epochs": 2, "track": [], "quiet": True, "data.limit": 160}
    options["control"] = False
    whole = potstill.distill(str(teacher_run), "own.py:make", "digits", name="whole", **options)
    answers = iter([False] * 2 + [True])
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "__call__", lambda self: next(answers))
        with pytest.raises(InterruptedRun):
            potstill.distill(str(teacher_run), "own.py:make", "digits", name="torn", **options)
    resumed = potstill.resume("runs/torn", quiet=True)
    a, b = whole.student.state_dict(), resumed.student.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    with pytest.raises(RefusedError):
        potstill.load(resumed.path)
    x = torch.rand(2, 1, 8, 8)
    loaded = potstill.load(resumed.path, trust_code=True)
    assert torch.equal(whole.student(x), loaded(x))
    seen = look(loaded, x)
    assert (seen.head, seen.penultimate) == ("classifier", "classifier@in"), "it can teach"


def test_a_module_of_the_users_is_loaded_round_one_that_its_owner_builds(tmp_path: Path) -> None:
    student = Net(Vgg(inplace=False), "object:Vgg")
    built = build(student.module, Vgg((8, 12, 16)), expand("simkd"), X)
    net = Delivery(student, built).net
    save_student(tmp_path, net)
    assert json.loads((tmp_path / "student.json").read_text())["format"] == 2, "an older potstill must refuse it"
    with pytest.raises(ModelError, match="only its owner can build"):
        potstill.load(tmp_path)
    loaded = load_student(tmp_path, module=Vgg(inplace=False))
    assert torch.equal(loaded.module.eval()(X), net.module.eval()(X))
    assert loaded.head == net.head


def test_a_damaged_record_is_refused() -> None:
    good = Head("features", "fc", (8, 4, 4), 6, 12, (4, 4), True, 10).to_json()
    assert Head.from_json(json.loads(json.dumps(good))).map == (8, 4, 4)
    for bad in (
        {**good, "map": [8, 4]},
        {**good, "middle": -1},
        {**good, "classes": "10"},
        {**good, "channels": 1 << 30},
        {**good, "code": "x"},
        None,
    ):
        with pytest.raises(ModelError, match="head is damaged"):
            Head.from_json(bad)
    with pytest.raises(ModelError, match="does not fit"):
        Reused(nn.Sequential(nn.Linear(2, 2)), Head.from_json(good))
