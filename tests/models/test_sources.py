"""Nets from the zoo and from the user's own code."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from potstill.errors import ModelError
from potstill.models import resolve
from potstill.models.cnn import CNN

NET = """
from dataclasses import dataclass
import torch
from torch import nn
from beside import WIDTH

@dataclass
class Settings:
    width: int = WIDTH

class Net(nn.Module):
    def __init__(self, num_classes, width=Settings().width):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, width, 3), nn.Linear(width, num_classes)
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

class Shop:
    @staticmethod
    def build(num_classes=5):
        return Net(num_classes)

def loose(**kwargs):
    return Net(**{"num_classes": 4, **kwargs})

def fails(num_classes=2):
    raise ValueError("width 0\\nis too small")

def lazy():
    import beside
    return Net(beside.WIDTH)

ready, number = Net(6), 3
def text(): return "net"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my nets (v2) ü"
    folder.mkdir()
    (folder / "net.py").write_text(NET)
    (folder / "beside.py").write_text("WIDTH = 7\n")
    sys.modules.pop("beside", None)
    return folder


@pytest.mark.parametrize(
    ("attr", "classes", "kwargs"),
    [
        ("Net", 10, {"num_classes": 10}),
        ("Net(num_classes=8, width=3)", 8, {"num_classes": 8, "width": 3}),
        ("Shop.build", 10, {"num_classes": 10}),
        ("ready", 6, {}),
        ("lazy", 7, {}),
        ("loose(num_classes=9)", 9, {"num_classes": 9}),
    ],
)
def test_user_files(folder: Path, attr: str, classes: int, kwargs: dict[str, object]) -> None:
    before = list(sys.path)
    net = resolve(f"{folder / 'net.py'}:{attr}", num_classes=10)
    assert net.module(torch.rand(2, 3, 8, 8)).shape == (2, classes)
    assert net.kwargs == kwargs
    assert net.notices == []
    assert net.spec == f"{folder / 'net.py'}:{attr.split('(')[0]}"
    assert sys.path == before
    assert not (folder / "__pycache__" / "net.cpython-311.pyc").exists()


def test_arguments_that_a_signature_hides_are_not_guessed(folder: Path) -> None:
    net = resolve(f"{folder / 'net.py'}:loose", num_classes=10)
    assert net.module.fc.out_features == 4
    assert any("does not name num_classes" in n and "num_classes=10" in n for n in net.notices)


def test_an_edited_file_is_read_again(folder: Path) -> None:
    spec = f"{folder / 'net.py'}:Net"
    resolve(spec, num_classes=2)
    (folder / "net.py").write_text(NET.replace("nn.Conv2d(3", "nn.Conv2d(1"))  # same length, same second
    assert resolve(spec, num_classes=2).module.conv.in_channels == 1


@pytest.mark.parametrize(
    ("attr", "says"),
    [
        ("Nett", r"has no 'Nett'.*'Net'"),
        ("number", "is a int, expected a class or a function"),
        ("text", "must give a torch.nn.Module, got str"),
        ("fails", "could not be built: ValueError: width 0"),
        ("Net(widht=3)", r"takes \(num_classes, width=7\).*Did you mean 'width'"),
        ("ready(width=3)", "is a Net, expected a class"),
        ("Net(num_classes=-1)", "could not be built"),
    ],
)
def test_what_is_wrong_with_user_code_is_said(folder: Path, attr: str, says: str) -> None:
    with pytest.raises(ModelError, match=says) as e:
        resolve(f"{folder / 'net.py'}:{attr}", num_classes=2)
    assert e.value.exit_code == 4
    assert len(str(e.value).splitlines()) <= 6


def test_missing_arguments_are_said(folder: Path) -> None:
    with pytest.raises(ModelError, match="missing a required argument: 'num_classes'"):
        resolve(f"{folder / 'net.py'}:Net")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import torch\n\ndef f(:\n", r"bad\.py:3: .*SyntaxError"),
        ("x = 1\ny = 1 / 0\n", r"bad\.py:2: .*ZeroDivisionError"),
        ("import no_such_package_here\n", r"bad\.py:1: .*No module named 'no_such_package_here'"),
        ("\x00", r"bad\.py"),
    ],
)
def test_files_that_do_not_run(tmp_path: Path, code: str, says: str) -> None:
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(ModelError, match=says):
        resolve(f"{tmp_path / 'bad.py'}:Net")


def test_missing_files_and_modules(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"no file .*nett\.py.*net\.py"):
        resolve(f"{folder / 'nett.py'}:Net")
    with pytest.raises(ModelError, match="there is no module 'no_such_module'"):
        resolve("no_such_module.deeper:Net")
    with pytest.raises(ModelError, match=r"there is no module 'tim'.*'timm'"):
        resolve("tim:resnet18")


def test_importable_modules() -> None:
    net = resolve("potstill.models.cnn:CNN(widths=[4])", num_classes=3, in_channels=1)
    assert isinstance(net.module, CNN)
    assert net.kwargs == {"widths": [4], "num_classes": 3, "in_channels": 1}


def test_modules_of_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "net", raising=False)
    assert resolve("net:Net", num_classes=3).module.fc.out_features == 3
    monkeypatch.delitem(sys.modules, "net")


def test_the_example() -> None:
    path = Path(__file__).parents[2] / "examples" / "my_net.py"
    net = resolve(f"{path}:MyNet(width=4)", num_classes=10, in_channels=1).module
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert all(isinstance(net.get_submodule(stage), nn.Module) for stage in net.stages)
