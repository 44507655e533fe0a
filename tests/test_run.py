"""The main job, as users start it: from the command line and from Python, in a temporary folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import potstill
import potstill.rehearse
from potstill import run as jobs
from potstill.cli import run as cli
from potstill.config.load import resolve
from potstill.console import Console
from potstill.errors import ConfigError, InterruptedRun
from potstill.models import load_student
from potstill.trial import Stop

STUDENT = "zoo:cnn(widths=(4, 8))"
EXAMPLE = Path(__file__).parents[1] / "examples" / "dropout_net.py"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def facts(path: Path) -> dict:
    return json.loads((path / "run.json").read_text())


def test_distill_from_the_command_line(teacher_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--teacher", str(teacher_run), "--student", STUDENT, "--epochs", "2", "--seeds", "2", "--name", "mine"]
    assert cli(["distill", "--data", "digits", *arguments, "losses.kd.temperature=2"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == "runs/mine"
    assert "student alone" in err
    assert "teacher" in err
    path = Path("runs/mine")
    said = facts(path)
    assert said["status"] == "done"
    assert said["seeds"] == [0, 1]
    assert said["results"]["difference"]["n"] == 2
    assert said["results"]["student"]["last"]["top1"]["n"] == 2
    assert said["teacher"]["parameters"] > said["student"]["parameters"] > 0
    kd = said["losses"][1]
    assert (kd["name"], kd["weight"], kd["settings"]["temperature"]) == ("kd", 0.9, 2)
    assert any("top-1" in line for line in said["preflight"])
    for trial in ("student-s0", "student-s1", "control-s0", "control-s1"):
        rows = [json.loads(line) for line in (path / trial / "metrics.jsonl").read_text().splitlines()]
        assert [r["epoch"] for r in rows] == [1, 2]
        result = json.loads((path / trial / "result.json").read_text())
        assert result["last"]["epoch"] == 2
        assert 0 <= result["best"]["test"]["top1"] <= 1
    assert "temperature: 2" in (path / "config.yaml").read_text()
    assert (path / "report.html").stat().st_size > 10_000
    assert "http-equiv" in (path / "report.html").read_text()

    # the plain state dict of the plain student, nothing of ours in it
    keys = set(load_file(path / "student.safetensors"))
    assert keys == set(potstill.load(path).state_dict())
    assert not any("teacher" in k or "regressor" in k or k.startswith("net.") for k in keys)

    # it says on the test data what the result says
    best = json.loads((path / f"student-s{said['best_seed']}" / "result.json").read_text())["best"]["test"]
    assert cli(["eval", "runs/mine", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["top1"] == pytest.approx(best["top1"])

    # config.yaml is complete: it repeats the run, bit for bit
    assert cli(["distill", "runs/mine/config.yaml", "name=again", "-q"]) == 0
    again, first = load_file("runs/again/student.safetensors"), load_file(path / "student.safetensors")
    assert all(torch.equal(again[k], first[k]) for k in first)

    # the control was trained before: it was taken from where it is kept, and is the same
    one, two = (json.loads(Path(f"runs/{r}/control-s0/result.json").read_text()) for r in ("mine", "again"))
    assert one == two
    capsys.readouterr()
    assert cli(["compare", "runs/mine", "runs/again"]) == 0
    assert cli(["report", "runs/mine", "runs/again", "--out", "both.html"]) == 0
    assert Path("both.html").exists()


def test_a_run_name_that_is_taken_is_not_overwritten(teacher_run: Path) -> None:
    for expected in ("runs/x", "runs/x-2"):
        r = potstill.distill(str(teacher_run), STUDENT, epochs=1, name="x", control=False, track=[], quiet=True)
        assert str(r.path) == expected


def test_a_teacher_without_weights_is_taught_first() -> None:
    r = potstill.distill(
        "zoo:cnn",
        STUDENT,
        epochs=1,
        control=False,
        track=[],
        quiet=True,
        **{"teacher.epochs": 3, "allow_weak_teacher": True},
    )
    rows = (r.path / "teacher-s0" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 3
    assert r.facts["teacher"]["sha256"]
    assert any("taught first" in line for line in r.facts["preflight"])


def test_partly_labelled_data_give_the_control_its_labels_for_as_many_steps(teacher_run: Path) -> None:
    few = {"source": "digits", "labels": 30}
    r = potstill.distill(str(teacher_run), STUDENT, few, epochs=1, name="few", track=[], quiet=True)
    assert r.facts["data"]["labelled"] == 30
    steps = {t: json.loads((r.path / t / "metrics.jsonl").read_text())["step"] for t in ("student-s0", "control-s0")}
    assert steps["student-s0"] == steps["control-s0"] == 17
    control = json.loads((r.path / "control-s0" / "metrics.jsonl").read_text())
    assert control["train"]["links"]["ce"] > 1.0, "a mean over labelled pictures, not diluted by the others"


def test_modules_of_the_users_own_from_python(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8)
    y = (x[:, 0].float().mean((1, 2)) > 127).long() + (x[:, 1].float().mean((1, 2)) > 127).long()
    data = [(x[i], int(y[i])) for i in range(300)]

    class Listed(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, i: int):
            return data[i]

    class Mine(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
            self.head = nn.Linear(width, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x).mean((2, 3)))

    teacher, student = Mine(16), Mine(4)
    before = {k: v.clone() for k, v in student.state_dict().items()}
    r = potstill.distill(
        teacher, student, Listed(), method="fitnet+kd", epochs=2, track=[], quiet=True, allow_weak_teacher=True,
        losses={"fitnet": {"at": "body"}},
    )  # fmt: skip
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items()), (
        "the user's module is left as it was"
    )
    assert teacher.body[1].num_batches_tracked == 0
    assert r.facts["losses"][1]["shapes"] == [[[4, 6, 6], [16, 6, 6]]]
    weights = load_file(r.path / "student.safetensors")
    Mine(4).load_state_dict(weights)
    assert isinstance(r.student, Mine)
    assert all(torch.equal(v, weights[k]) for k, v in r.student.state_dict().items())
    assert not r.student.training
    r.path.joinpath("run.json").write_text(json.dumps({**facts(r.path), "status": "interrupted"}))
    with pytest.raises(ConfigError, match="started from Python"):
        potstill.resume(r.path)


def test_a_net_that_cannot_do_with_channels_last(teacher_run: Path) -> None:
    Path("flat.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes=10, in_channels=1):\n"
        "        super().__init__()\n"
        "        self.c, self.fc = nn.Conv2d(in_channels, 4, 3), nn.Linear(144, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.fc(self.c(x).view(len(x), -1))\n"
    )
    r = potstill.distill(str(teacher_run), "flat.py:Net", epochs=1, control=False, track=[], quiet=True)
    assert r.facts["status"] == "done"


def test_a_factory_gives_each_seed_fresh_weights(teacher_run: Path) -> None:
    def make() -> nn.Module:
        from potstill.models.cnn import CNN

        return CNN(widths=(4,), in_channels=1)

    r = potstill.distill(str(teacher_run), make, epochs=1, seeds=2, control=False, track=[], quiet=True)
    a, b = (load_file(r.path / f"student-s{i}" / "student.safetensors") for i in (0, 1))
    assert not torch.equal(a["fc.weight"], b["fc.weight"])


def test_a_net_from_a_file_outside_the_package(teacher_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--teacher", str(teacher_run), "--student", f"{EXAMPLE}:make", "--epochs", "1", "--name", "file"]
    assert cli(["distill", *arguments, "student.kwargs.width=4", "control=false", "-q"]) == 0
    assert load_student("runs/file", trust_code=True).module[0][0].out_channels == 4
    capsys.readouterr()
    assert cli(["eval", "runs/file"]) == 7, "a run directory may come from anywhere: its code does not run by itself"
    assert "trust" in capsys.readouterr().err
    assert cli(["eval", "runs/file", "--trust-code"]) == 0
    again = ["distill", "--teacher", "runs/file", "--student", STUDENT, "--epochs", "1", "control=false", "-q"]
    assert cli(again) == 7
    assert cli([*again, "trust_code=true", "allow_weak_teacher=true"]) == 0


def test_a_teacher_with_its_classes_in_another_order(teacher_run: Path) -> None:
    net = load_student(teacher_run)
    turned = [*range(9, -1, -1)]
    net.module.load_state_dict({
        k: v[turned] if k in ("fc.weight", "fc.bias") else v for k, v in net.module.state_dict().items()
    })  # fmt: skip
    net.classes = [net.classes[i] for i in turned]
    r = potstill.distill(net, STUDENT, epochs=1, control=False, track=[], quiet=True)
    right = facts(teacher_run)["results"]["student"]["best"]["top1"]["mean"]
    assert r.results["teacher"]["test"]["top1"] == pytest.approx(right)
    assert any("another order" in line for line in r.facts["preflight"])


def test_interrupting_saves_and_says_how_to_go_on(teacher_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"epochs": 2, "control": False, "track": [], "quiet": True}
    whole = potstill.distill(str(teacher_run), f"{EXAMPLE}:make", name="whole", **options)
    asked = iter([False] * 20 + [True])
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "__call__", lambda self: next(asked))
        with pytest.raises(InterruptedRun) as error:
            potstill.distill(str(teacher_run), f"{EXAMPLE}:make", name="torn", **options)
    assert "potstill resume runs/torn" in str(error.value)
    assert facts(Path("runs/torn"))["status"] == "interrupted"
    resumed = potstill.resume("runs/torn", quiet=True)
    a, b = (load_file(r.path / "student.safetensors") for r in (whole, resumed))
    assert all(torch.equal(a[k], b[k]) for k in a)
    with pytest.raises(ConfigError, match="is done"):
        potstill.resume("runs/torn", quiet=True)


def test_sigterm_saves_and_exits_130(teacher_run: Path) -> None:
    command = [sys.executable, "-m", "potstill.cli", "distill", "--teacher", str(teacher_run), "--student", STUDENT]
    process = subprocess.Popen([*command, "--epochs", "5000", "--name", "long"], stderr=subprocess.PIPE, text=True)
    journal = Path("runs/long/student-s0/metrics.jsonl")
    until = time.monotonic() + 60
    while not journal.exists() and time.monotonic() < until:
        time.sleep(0.05)
    # a second run cannot write it meanwhile
    with pytest.raises(ConfigError, match="being written by process"):
        potstill.resume("runs/long", quiet=True)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "potstill resume runs/long" in err
    assert "Traceback" not in err
    assert facts(Path("runs/long"))["status"] == "interrupted"
    assert (Path("runs/long/student-s0/state/last.json")).exists()
    assert os.path.exists("runs/long/log.txt")


def test_train_and_python_give_the_same_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    from potstill.api import _resolved
    from potstill.config import dump

    assert cli(["distill", "--teacher", "a", "--student", "b", "--print-config"]) == 0
    assert capsys.readouterr().out.strip() == dump(_resolved("distill", "a", "b", "digits", {})[0].config).strip()


def test_a_loop_of_ones_own() -> None:
    """What README shows."""
    from potstill import Batch, Link, offline, total
    from potstill.losses import CE, KD
    from potstill.models import resolve

    student, teacher = (resolve(f"zoo:cnn(widths=({w},))", num_classes=5, in_channels=3).module for w in (4, 8))
    scheme = offline(student, teacher, [Link(CE(), 0.1, teacher=None), Link(KD(temperature=4), 0.9)])
    optimizer = torch.optim.SGD(scheme.parameters(), 0.1)
    i = torch.arange(8)
    batch, values = Batch(torch.rand(8, 3, 8, 8), i % 5, i, i * 0), []
    for _ in range(30):
        loss = total(scheme(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in student.parameters()}


def test_a_transformer_of_the_hub_teaches(tmp_path: Path) -> None:
    """Through the real from_pretrained, from a folder that the test saves."""
    transformers = pytest.importorskip("transformers")
    size = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16}
    config = transformers.ViTConfig(
        **size, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, num_labels=10
    )
    transformers.ViTForImageClassification(config).save_pretrained("vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5], "image_std": [0.25], "size": {"height": 8, "width": 8}, "do_normalize": True})
    )
    r = potstill.distill(
        "hf:vit", STUDENT, method="kd", epochs=1, control=False, track=[], quiet=True, allow_weak_teacher=True
    )
    assert r.facts["teacher"]["model"].startswith("hf:vit")
    assert r.facts["teacher"]["macs"] > 0


def test_inspect_pairs_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["inspect", "--pair", "zoo:resnet8", "zoo:cnn(widths=(4, 8, 16))", "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    assert [p["teacher"] for p in pairs] == ["layer1", "layer2", "layer3"]
    assert cli(["inspect", "zoo:resnet8", "--input", "3x16x16"]) == 0
    assert "fc@in" in capsys.readouterr().out


def test_two_processes_from_the_command_line(teacher_run: Path) -> None:
    command = [sys.executable, "-m", "potstill.cli", "distill", "--teacher", str(teacher_run), "--student", STUDENT]
    done = subprocess.run(
        [*command, "--epochs", "2", "--name", "two", "--device", "cpu", "devices=2", "track=[]"],
        capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert [p.name for p in Path("runs").iterdir() if not p.name.startswith(".")] == ["two"], "one process writes"
    said = facts(Path("runs/two"))
    assert said["status"] == "done"
    assert said["results"]["control"]["last"]["top1"]["n"] == 1
    assert len((Path("runs/two/student-s0/metrics.jsonl")).read_text().splitlines()) == 2
    assert done.stderr.count("student alone, seed 0") == 1
    assert done.stdout.split() == ["runs/two"]


def test_tiny_nets_run_on_one_thread(teacher_run: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        r = potstill.distill(str(teacher_run), STUDENT, epochs=1, control=False, track=[], quiet=True)
        assert r.facts["threads"] == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_control_is_not_taken_from_another_net_of_the_same_name(teacher_run: Path) -> None:
    results = []
    for width in (4, 16):
        Path("s.py").write_text(
            "from torch import nn\n"
            "def make(num_classes, in_channels=1):\n"
            f"    return nn.Sequential(nn.Flatten(), nn.Linear(64, {width}), nn.ReLU(), nn.Linear({width}, num_classes))\n"
        )
        r = potstill.distill(str(teacher_run), "s.py:make", epochs=1, name=f"w{width}", track=[], quiet=True)
        state = load_file(r.path / "control-s0" / "student.safetensors")
        results.append(state["1.weight"].shape[0])
    assert results == [4, 16]


def test_a_control_has_the_steps_of_a_student_that_stopped_early(teacher_run: Path) -> None:
    r = potstill.distill(str(teacher_run), STUDENT, epochs=40, name="early", track=[], quiet=True, early_stop=1)
    epochs = [json.loads((r.path / t / "result.json").read_text())["epochs"] for t in ("student-s0", "control-s0")]
    assert epochs[0] == epochs[1] == r.facts["budget"]["epochs"] < 40


def test_a_teacher_is_measured_once_for_several_runs_and_anew_for_other_data(
    teacher_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from potstill import adopt, ready

    measured: list[str] = []
    plain = ready.Ready.measure

    def counted(self: ready.Ready, net: object, split: str, order: object = None) -> object:
        measured.append(split)
        return plain(self, net, split, order)

    monkeypatch.setattr(ready.Ready, "measure", counted)
    monkeypatch.setattr(adopt, "_MEASURED", {})

    def teacher_of(**data: object) -> dict[str, float]:
        measured.clear()
        config = {"source": "digits", **data}
        run = potstill.distill(str(teacher_run), STUDENT, config, epochs=1, control=False, track=[], quiet=True)
        return run.results["teacher"]["test"]

    first = teacher_of()
    asked = len(measured)
    assert teacher_of() == first
    assert len(measured) == asked - 2
    teacher_of(val=0.3)
    assert len(measured) == asked


def test_what_looks_odd_is_said_beforehand(teacher_run: Path) -> None:
    def check(student: str, batch: int) -> str:
        config = resolve([], [], {"teacher.model": str(teacher_run), "student.model": student, "data.batch": batch})
        return "\n".join(jobs.check(config.config, console=Console(quiet=True)))

    odd, usual = check("zoo:cnn(widths=(64, 64))", 5000), check(STUDENT, 64)
    for words in ("no smaller than its teacher", "each step sees all 1,078 pictures"):
        assert words in odd
        assert words not in usual


@pytest.mark.parametrize("instructions", [True, False])
def test_half_precision_is_said_beforehand_by_potstill_alone(
    instructions: bool, teacher_run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(potstill.rehearse, "has_bf16", lambda device: instructions)
    run = potstill.distill(
        str(teacher_run), "zoo:cnn(widths=(4, 8))", "digits", epochs=1, control=False, precision="bf16", quiet=True
    )
    budget, *more = [line.strip() for line in run.facts["preflight"]][-1 - (not instructions) :]
    assert re.search(r"; about \d+ s on cpu in bf16, \d+ % of it the teacher's", budget)
    assert (
        more == ["it has no instructions for bf16, which is computed in float32: precision=32 is faster"][instructions:]
    )
    assert "Mixed Precision" not in capfd.readouterr().err
