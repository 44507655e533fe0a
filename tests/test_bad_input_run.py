"""Bad input that shows only with data, nets and the machine at hand: rows 8 to 48 of the table of bad inputs.

Each: the promised exit code, at most six lines, no traceback, the culprit by its name; and no run directory, where the fault
can be known before the first epoch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from potstill.cli import run

STUDENT = "zoo:cnn(widths=(4,))"
Screen = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pictures(folder: str, classes: int = 3, each: int = 12, size: int = 16, shift: int = 0) -> None:
    """Class folders of noise whose mean tells the class."""
    rng = np.random.default_rng(shift)
    for c in range(classes):
        for i in range(each):
            path = Path(folder) / f"class{c}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 100, (size, size, 3)) + 50 * c
            Image.fromarray(noise.astype(np.uint8)).save(path)


def refused(arguments: list[str], code: int, says: list[str], screen: Screen, writes: bool = False) -> str:
    """Run the command: it must fail with this exit code and these words, in six lines, and write nothing."""
    assert run(arguments) == code
    out, err = screen.readouterr()
    assert out == ""
    at = err.rfind("error: ")
    assert at >= 0, err
    message = err[at:]
    for words in says:
        assert words in message, message
    assert len(message.splitlines()) <= 6
    assert "Traceback" not in err
    assert Path("runs").exists() == writes
    return message


def train(*more: str) -> list[str]:
    model = [] if any(m.startswith("student.model=") for m in more) else ["--model", STUDENT]
    return ["train", *model, "--epochs", "1", *more]


# -- data ---------------------------------------------------------------------------------------------------------------


def folder_missing() -> list[str]:
    Path("photos").mkdir()
    return ["folder:photo"]


def no_classes() -> list[str]:
    Path("photos").mkdir()
    Image.new("RGB", (8, 8)).save("photos/a.png")
    return ["folder:photos"]


def one_class() -> list[str]:
    pictures("photos", classes=1)
    return ["folder:photos"]


def empty_split() -> list[str]:
    pictures("photos/train")
    Path("photos/val/class0").mkdir(parents=True)
    return ["folder:photos"]


def many_corrupt() -> list[str]:
    pictures("photos")
    for i in range(6):
        Path(f"photos/class0/{i}.png").write_bytes(Path(f"photos/class0/{i}.png").read_bytes()[:90])
    return ["folder:photos"]


def bomb() -> list[str]:
    pictures("photos", each=4)
    Image.new("1", (20_000, 20_000)).save("photos/class0/0.png")
    return ["folder:photos"]


def unlike_sizes() -> list[str]:
    pictures("photos")
    Image.new("RGB", (40, 16)).save("photos/class1/0.png")
    return ["folder:photos"]


def overlap() -> list[str]:
    pictures("photos/train")
    shutil.copytree("photos/train", "photos/test")
    return ["folder:photos", "data.strict=true"]


DATA: dict[str, tuple[Callable[[], list[str]], list[str]]] = {
    "8 missing": (folder_missing, ["photo", "Did you mean"]),
    "9 no class folders": (no_classes, ["photos"]),
    "10 one class": (one_class, ["two classes or more", "class0"]),
    "11 empty split": (empty_split, ["val"]),
    "12 overlap": (overlap, ["train"]),
    "13 corrupt": (many_corrupt, ["6", "class0"]),
    "14 bomb": (bomb, ["0.png"]),
    "15 sizes": (unlike_sizes, ["data.size="]),
}


@pytest.mark.parametrize("row", DATA)
def test_data(row: str, capsys: Screen) -> None:
    make, says = DATA[row]
    source, *more = make()
    before = {p: p.read_bytes() for p in Path().rglob("*.png")}
    refused(train("--data", source, *more), 3, says, capsys)
    assert {p: p.read_bytes() for p in Path().rglob("*.png")} == before, "the user's files are only read"


def test_8_a_path_is_never_fetched(capsys: Screen) -> None:
    refused(train("--data", "cifar10:nowhere"), 3, ["nowhere"], capsys)


def test_8_unknown_source(capsys: Screen) -> None:
    refused(train("--data", "digts"), 3, ["digts", "Did you mean 'digits'"], capsys)


# -- nets ---------------------------------------------------------------------------------------------------------------


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> list[str]:
    from potstill.models import resolve

    save_file(change(resolve(STUDENT, num_classes=10, in_channels=1).module.state_dict()), "w.safetensors")
    return ["student.weights=w.safetensors"]


def pickled() -> list[str]:
    torch.save({"model": torch.nn.Linear(1, 1)}, "w.pt")
    return ["student.weights=w.pt"]


def written(content: bytes, name: str = "w.pt") -> list[str]:
    Path(name).write_bytes(content)
    return [f"student.weights={name}"]


def truncated() -> list[str]:
    torch.save({"a": torch.randn(1000)}, "w.pt")
    return written(Path("w.pt").read_bytes()[:1000])


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n"
NETS: dict[str, tuple[Callable[[], list[str]], int, list[str]]] = {
    "21 weights missing": (lambda: ["student.weights=none.pt"], 4, ["none.pt"]),
    "25 do not fit": (
        lambda: weights(lambda s: {k: v for k, v in s.items() if k != "fc.bias"}),
        4,
        ["missing", "fc.bias"],
    ),
    "25 unexpected": (lambda: weights(lambda s: {**s, "extra": torch.ones(1)}), 4, ["unexpected", "extra"]),
    "25 mismatched": (lambda: weights(lambda s: {**s, "fc.bias": torch.ones(3)}), 4, ["fc.bias"]),
    "26 pickle": (pickled, 7, ["Linear"]),
    "27 truncated": (truncated, 4, ["w.pt"]),
    "27 empty": (lambda: written(b""), 4, ["w.pt"]),
    "28 LFS pointer": (lambda: written(LFS), 4, ["LFS"]),
    "28 HTML": (lambda: written(b"<!DOCTYPE html><html>404</html>"), 4, ["web page"]),
    "47 timm is missing": (lambda: ["student.model=timm:resnet18"], 6, ["timm", "potstill[timm]"]),
    "zoo name": (lambda: ["student.model=zoo:resnet8x5"], 4, ["resnet8x5", "Did you mean"]),
    "16 channels": (lambda: ["student.model=zoo:cnn(in_channels=2)"], 4, ["student"]),
}


@pytest.mark.parametrize("row", NETS)
def test_nets(row: str, capsys: Screen) -> None:
    make, code, says = NETS[row]
    refused(train("--data", "digits", *make()), code, says, capsys)


def distil(teacher: Path | str, *more: str) -> list[str]:
    student = [] if any(m.startswith("student.model=") for m in more) else ["--student", STUDENT]
    return ["distill", "--teacher", str(teacher), *student, "--epochs", "1", "control=false", *more]


def test_18_and_19_other_classes(teacher_run: Path, capsys: Screen) -> None:
    pictures("photos", size=8)
    refused(distil(teacher_run, "--data", "folder:photos", "data.channels=1"), 4, ["(10,)", "3 classes"], capsys)


def test_20_class_order_without_names(teacher_run: Path, capsys: Screen) -> None:
    shutil.copytree(teacher_run, "turned")
    state = load_file("turned/student.safetensors")
    turned = [*range(1, 10), 0]
    save_file({k: v[turned] if k.startswith("fc.") else v for k, v in state.items()}, "w.safetensors")
    arguments = distil("zoo:cnn(widths=(12, 24))", "teacher.weights=w.safetensors")
    refused(arguments, 4, ["at chance", "class order"], capsys)
    assert run([*arguments, "allow_weak_teacher=true", "-q"]) == 0


def test_21_untrained_teacher(capsys: Screen) -> None:
    from potstill.models import resolve

    save_file(resolve("zoo:cnn", num_classes=10, in_channels=1).module.state_dict(), "w.safetensors")
    refused(distil("zoo:cnn", "teacher.weights=w.safetensors"), 4, ["at chance", "allow_weak_teacher"], capsys)


def test_a_teacher_that_the_run_taught_too_little(capsys: Screen) -> None:
    message = refused(
        distil("zoo:cnn", "optim.lr=1e-8"),
        4,
        ["at chance", "this run has taught it, for 1 epoch", "teacher.epochs"],
        capsys,
        writes=True,
    )
    assert "preprocessing" not in message


def test_other_data_than_those_of_a_run_keep_all_their_labels(tmp_path: Path, capsys: Screen) -> None:
    pictures("photos", size=8)
    assert run(["train", "--model", STUDENT, "--epochs", "1", "data.labels=100", "-q", "--out", "few"]) == 0
    capsys.readouterr()
    home = next(Path("few").iterdir()) if not Path("few/run.json").exists() else Path("few")
    refused(["eval", str(home), "--data", "folder:photos"], 4, ["3 classes"], capsys)


def test_no_teacher(capsys: Screen) -> None:
    refused(["distill", "--student", STUDENT], 2, ["teacher"], capsys)


def test_29_layer_path(teacher_run: Path, capsys: Screen) -> None:
    arguments = distil(teacher_run, "--method", "fitnet", "losses.fitnet.at=[features.stage1.9, features.stage1]")
    refused(arguments, 4, ["no layer 'features.stage1.9'", "features.stage1"], capsys)


def test_30_spots_of_different_kinds(teacher_run: Path, capsys: Screen) -> None:
    arguments = distil(teacher_run, "--method", "fitnet", "losses.fitnet.at=[features.stage1, fc@in]")
    refused(arguments, 4, ["no adapter from shape", "(4, 8, 8)"], capsys)


def test_31_in_place_and_run_twice(teacher_run: Path, capsys: Screen) -> None:
    Path("net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes=10, in_channels=1):\n"
        "        super().__init__()\n"
        "        self.c, self.r = nn.Conv2d(in_channels, 4, 3, padding=1), nn.ReLU(inplace=True)\n"
        "        self.fc = nn.Linear(4, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.fc(self.r(self.r(self.c(x))).mean((2, 3)))\n"
    )
    arguments = distil(teacher_run, "--method", "fitnet", "student.model=net.py:Net")
    refused([*arguments, "losses.fitnet.at=[c, features.stage1]"], 4, ["'c' was overwritten", "in-place"], capsys)
    refused([*arguments, "losses.fitnet.at=[r, features.stage1]"], 4, ["'r' runs more than once"], capsys)


def test_32_a_net_that_says_something_else(capsys: Screen) -> None:
    Path("net.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return 'cat'\n"
    )
    refused(["train", "--model", "net.py:Net", "--epochs", "1"], 4, ["must put out a tensor", "str"], capsys)


def test_a_users_net_with_a_fault_is_told_its_line(capsys: Screen) -> None:
    Path("net.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return self.layr(x)\n"
    )
    refused(["train", "--model", "net.py:Net", "--epochs", "1"], 1, ["net.py:4", "layr", "your code"], capsys)


def test_a_users_file_with_a_fault(capsys: Screen) -> None:
    Path("net.py").write_text("def make(:\n")
    refused(["train", "--model", "net.py:make", "--epochs", "1"], 4, ["net.py"], capsys)


def test_33_a_student_larger_than_its_teacher_is_no_error(teacher_run: Path) -> None:
    assert run(distil(teacher_run, "-q", "student.model=zoo:cnn(widths=(32, 64))")) == 0


# -- the training and the machine -----------------------------------------------------------------------------------------


def test_35_a_loss_that_is_not_finite(capsys: Screen) -> None:
    arguments = train("optim.lr=1e30", "--epochs", "5", "--name", "boom", "save_steps=1")
    message = refused(arguments, 5, ["was not finite at step", "optim.lr"], capsys, writes=True)
    assert "loss 'ce'" in message
    facts = json.loads(Path("runs/boom/run.json").read_text())
    assert (facts["status"], facts["exit_code"]) == ("failed", 5)
    assert "DivergedError" in Path("runs/boom/log.txt").read_text()
    assert Path("runs/boom/student-s0/state/last.json").exists()


def test_38_disk_full(capsys: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    from potstill import checkpoint

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    refused(train("--name", "full"), 6, ["disk"], capsys, writes=True)
    assert json.loads(Path("runs/full/run.json").read_text())["status"] == "failed"


def test_39_the_folder_for_runs_is_a_file(capsys: Screen) -> None:
    Path("taken").write_text("")
    assert run(train("out=taken")) == 6
    assert "taken" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_46_device(capsys: Screen) -> None:
    refused(train("--device", "cuda"), 6, ["'cuda' is not on this machine", "cpu"], capsys)
    refused(train("--precision", "16"), 6, ["precision=16"], capsys)


def test_optimizer_and_schedule(capsys: Screen) -> None:
    refused(train("optim.nestrov=true"), 2, ["nestrov", "Did you mean 'nesterov'"], capsys)
    refused(train("optim=adamm"), 2, ["optim.name", "Did you mean 'Adam'"], capsys)


def test_43_to_45_resume(teacher_run: Path, capsys: Screen) -> None:
    shutil.copytree(teacher_run, "runs/a")
    facts = json.loads(Path("runs/a/run.json").read_text())
    assert run(["resume", "runs/a"]) == 2
    assert "is done" in capsys.readouterr().err
    Path("runs/a/run.json").write_text(json.dumps({**facts, "status": "interrupted", "data": {"fingerprint": "other"}}))
    assert run(["resume", "runs/a"]) == 2
    assert "changed since the run was started: data" in capsys.readouterr().err
    Path("runs/a/run.json").write_text(json.dumps({**facts, "status": "interrupted"}))
    assert run(["resume", "runs/a", "--epochs", "9"]) == 2
    assert "started with 3" in capsys.readouterr().err
    assert run(["resume", "nowhere"]) == 2
    assert "not a run directory" in capsys.readouterr().err


def test_a_damaged_checkpoint_falls_back_and_then_says_so(teacher_run: Path, capsys: Screen) -> None:
    shutil.copytree(teacher_run, "runs/a")
    facts = json.loads(Path("runs/a/run.json").read_text())
    Path("runs/a/run.json").write_text(json.dumps({**facts, "status": "interrupted"}))
    Path("runs/a/student-s0/result.json").unlink()
    for file in Path("runs/a/student-s0/state").glob("last.*.pt"):
        file.write_bytes(b"x" * 100)
    assert run(["resume", "runs/a"]) == 4
    assert "damaged" in capsys.readouterr().err


def test_names_that_file_systems_are_bad_at(capsys: Screen) -> None:
    pictures("my photos/日本 ü/train")
    assert run(train("--data", "folder:my photos/日本 ü", "--name", "räksmörgås 1", "-q")) == 0
    assert Path("runs/räksmörgås 1/report.html").exists()


def test_symlink_loops(capsys: Screen) -> None:
    pictures("photos")
    os.symlink("..", "photos/class0/up")
    assert run(train("--data", "folder:photos", "-q")) == 0
