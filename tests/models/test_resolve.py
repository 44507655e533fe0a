"""From a name to a net, and a student's files there and back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from potstill.errors import MachineError, ModelError, RefusedError
from potstill.models import Net, Preprocess, load_student, resolve, save_student, save_weights
from potstill.models.cnn import CNN

CODE = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, num_classes, shape=(1, 2)):
        assert isinstance(shape, tuple)
        super().__init__(nn.Conv2d(*shape, 3), nn.Flatten(), nn.LazyLinear(num_classes))
def colour():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
open(__file__ + ".ran", "w").close()
"""


WAYS = [
    "from potstill.models import resolve",
    "from potstill.models.resolve import resolve",
    "import potstill.models.resolve; from potstill.models import resolve",
    "from potstill.models import Net, resolve",
    "import potstill.models as m; resolve = m.resolve",
    "from potstill.models.resolve import resolve as first; from potstill import models; resolve = models.resolve",
]


def test_resolve_can_be_called_however_it_was_imported() -> None:
    code = f"""
import sys, potstill
for way in {WAYS}:
    for name in [m for m in sys.modules if m.startswith("potstill.models")]:
        del sys.modules[name]
    vars(potstill).pop("models", None)
    scope = {{}}
    exec(way, scope)
    print(scope["resolve"]("resnet8").spec)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "zoo:resnet8\n" * len(WAYS), done.stderr


def test_facts_reach_the_net_and_the_text_wins() -> None:
    net = resolve("cnn(widths=(4,), num_classes=5)", num_classes=10, in_channels=1)
    assert net.spec == "zoo:cnn"
    assert net.kwargs == {"widths": (4,), "num_classes": 5, "in_channels": 1}
    assert net.module(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    assert net.preprocess is None
    assert resolve("cnn", widths=(3,)).module.features.stage1[0].out_channels == 3


def test_aliases_become_the_own_name() -> None:
    assert resolve("MobileNetV2").spec == "zoo:mobile_half"


def test_a_module_comes_back_untouched() -> None:
    module = nn.Linear(2, 3)
    net = resolve(module, num_classes=9)
    assert net.module is module
    assert net.spec == "object:torch.nn.modules.linear.Linear"
    again = resolve(net, in_channels=1)
    assert again.module is module
    assert again is not net


@pytest.mark.parametrize(("reads", "given"), [(3, 1), (1, 3)])
def test_grey_meets_colour(reads: int, given: int) -> None:
    module = nn.Sequential(nn.Conv2d(reads, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    own = Preprocess([0.5], [0.5], size=8)
    net = resolve(Net(module, "mine", preprocess=own), in_channels=given)
    assert net.preprocess is not None
    assert net.preprocess.to_json() == {**own.to_json(), "channels": reads}
    assert net.module(net.preprocess(torch.rand(2, given, 4, 4))).shape == (2, 2)
    assert any(f"have {given} channel" in n for n in net.notices)
    assert list(module.state_dict()) == ["0.weight", "0.bias"]


def test_equal_channels_need_nothing() -> None:
    net = resolve(nn.Conv2d(3, 4, 1), in_channels=3)
    assert (net.preprocess, net.notices) == (None, [])
    assert resolve(nn.Linear(3, 4), in_channels=1).preprocess is None
    assert resolve(nn.Conv2d(4, 4, 1), in_channels=3).preprocess is None  # nothing can be done


def test_weights_are_loaded_and_recorded(tmp_path: Path) -> None:
    module = CNN((4,), num_classes=3)
    digest = save_weights(module, tmp_path / "w.safetensors")
    net = resolve("cnn(widths=(4,))", num_classes=3, weights=tmp_path / "w.safetensors")
    assert torch.equal(net.module.fc.weight, module.fc.weight)
    assert (net.sha256, net.path) == (digest, str(tmp_path / "w.safetensors"))
    with pytest.raises(ModelError, match="of another shape"):
        resolve("cnn(widths=(4,))", num_classes=7, weights=tmp_path / "w.safetensors")
    net = resolve("cnn(widths=(4,))", num_classes=7, weights=tmp_path / "w.safetensors", partial=True)
    assert any("loaded 7 of 9" in n for n in net.notices)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: resolve("zoo:resnt20"), "'resnet20'"),
        (lambda: resolve("resnet20(depth=3)"), "depth"),
        (lambda: resolve("cnn(width=(8,))"), "'widths'"),
        (lambda: resolve(3), "got int"),
        (lambda: resolve(nn.Linear(1, 1), width=3), "already built"),
        (lambda: resolve("./no/such/run"), "there is no folder"),
    ],
)
def test_what_cannot_be_resolved_is_said(call, says: str) -> None:
    with pytest.raises(ModelError, match=says) as e:
        call()
    assert len(str(e.value).splitlines()) <= 6


# the student's files


def student() -> Net:
    net = resolve("cnn(widths=(4, 5))", num_classes=3, in_channels=1)
    net.preprocess, net.classes = Preprocess([0.3], [0.2]), ["a", "b", "<script>"]
    return net


def test_a_student_comes_back(tmp_path: Path) -> None:
    net = student()
    digest = save_student(tmp_path / "run", net, size=(8, 9))
    record = json.loads((tmp_path / "run" / "student.json").read_text())
    assert record == {
        "format": 1,
        "model": "zoo:cnn",
        "kwargs": {"widths": {"__tuple__": [4, 5]}, "num_classes": 3, "in_channels": 1},
        "classes": ["a", "b", "<script>"],
        "preprocess": {"mean": [0.3], "std": [0.2], "size": None, "channels": None},
        "in_channels": 1,
        "size": [8, 9],
        "sha256": digest,
    }
    for again in (load_student(tmp_path / "run"), resolve(str(tmp_path / "run"), num_classes=77, in_channels=1)):
        assert again.preprocess is not None
        assert again.preprocess.to_json() == record["preprocess"]
        assert (again.spec, again.kwargs, again.classes) == (net.spec, net.kwargs, net.classes)
        assert (again.sha256, again.in_channels, again.size) == (digest, 1, (8, 9))
        x = torch.rand(2, 1, 8, 9)
        assert torch.equal(again.module.eval()(x), net.module.eval()(x))


def test_it_can_be_saved_again(tmp_path: Path) -> None:
    first = save_student(tmp_path / "a", student(), size=(8, 8))
    assert save_student(tmp_path / "b", load_student(tmp_path / "a")) == first
    assert (tmp_path / "a" / "student.json").read_bytes() == (tmp_path / "b" / "student.json").read_bytes()


def test_a_net_of_a_relative_file_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    net = resolve("net.py:Net(shape=(1, 4))", num_classes=3)
    net.module(torch.rand(1, 1, 4, 4))
    save_student("run", net)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resolve("../run", trust_code=True).spec.startswith(str(tmp_path.resolve()))


def test_code_runs_only_when_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    net = resolve(f"{tmp_path / 'net.py'}:Net(shape=(1, 4))", num_classes=3)
    net.module(torch.rand(1, 1, 4, 4))  # its lazy layer gets its shape
    save_student(tmp_path / "run", net)
    (tmp_path / "net.py.ran").unlink()
    run = str(tmp_path / "run")
    with pytest.raises(RefusedError, match="trust_code") as e:
        resolve(run)
    assert e.value.exit_code == 7
    assert not (tmp_path / "net.py.ran").exists()
    again = resolve(run, trust_code=True)
    assert (tmp_path / "net.py.ran").exists()
    x = torch.rand(1, 1, 4, 4)
    assert torch.equal(again.module(x), net.module(x))
    assert again.kwargs == {"shape": (1, 4), "num_classes": 3}


@pytest.mark.parametrize(
    ("model", "kwargs"),
    [
        ("os:system", {"command": "true"}),
        ("hf:a/b", {"trust_remote_code": True}),
        ("hf:a/b", {"attn_implementation": "someone/kernel"}),
        ("timm:resnet18", {"checkpoint_path": "x.pt"}),
        ("timm:resnet18", {"pretrained_cfg": {"url": "x"}}),
        ("./another/run", {}),
    ],
)
def test_records_that_could_run_code_are_refused(model: str, kwargs: dict[str, object], tmp_path: Path) -> None:
    save_student(tmp_path, student())
    record = json.loads((tmp_path / "student.json").read_text())
    (tmp_path / "student.json").write_text(json.dumps({**record, "model": model, "kwargs": kwargs}))
    with pytest.raises(RefusedError):
        load_student(tmp_path)


def test_a_module_object_is_saved_but_only_its_owner_can_build_it(tmp_path: Path) -> None:
    save_student(tmp_path / "a", resolve(CNN((4,))))
    odd = student()
    odd.kwargs["maker"] = nn.ReLU
    save_student(tmp_path / "b", odd)
    for run in ("a", "b"):
        assert (tmp_path / run / "student.safetensors").exists()
        with pytest.raises(ModelError, match="only its owner can build"):
            load_student(tmp_path / run)


def broken(record: dict[str, object], **change: object) -> str:
    return json.dumps({k: v for k, v in {**record, **change}.items() if v != "gone"})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda r: "{", "damaged"),
        (lambda r: "[" * 100_000, "damaged"),
        (lambda r: "[1]", "damaged"),
        (lambda r: "\udcff", "damaged"),
        (lambda r: broken(r, kwargs="gone"), "damaged.*kwargs"),
        (lambda r: broken(r, kwargs=[1]), "kwargs is"),
        (lambda r: broken(r, model=3), "model is 3"),
        (lambda r: broken(r, format=3), "format 3"),
        (lambda r: broken(r, sha256="0" * 64), "sha256 differs"),
        (lambda r: broken(r, preprocess={"mean": 3}), "preprocess"),
        (lambda r: broken(r, kwargs={"widths": [4, 6], "num_classes": 3, "in_channels": 1}), "does not fit"),
        (lambda r: broken(r, model="zoo:cnm"), "cnm"),
    ],
)
def test_damaged_records(spoil, says: str, tmp_path: Path) -> None:
    save_student(tmp_path, student())
    path = tmp_path / "student.json"
    path.write_text(spoil(json.loads(path.read_text())), errors="surrogateescape")
    with pytest.raises(ModelError, match=says):
        load_student(tmp_path)


def test_a_huge_record_is_not_read(tmp_path: Path) -> None:
    save_student(tmp_path, student())
    with open(tmp_path / "student.json", "r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(RefusedError, match="bytes"):
        load_student(tmp_path)


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    save_student(tmp_path / "first run", student())
    with pytest.raises(ModelError, match=r"there is no folder .*first rum.*first run"):
        resolve(str(tmp_path / "first rum"))
    with pytest.raises(ModelError, match=r"has no student\.json"):
        resolve(str(tmp_path))
    with pytest.raises(ModelError, match=r"student\.safetensors is a file: of which net"):
        resolve(str(tmp_path / "first run" / "student.safetensors"))
    (tmp_path / "first run" / "student.safetensors").unlink()
    with pytest.raises(ModelError, match="no file"):
        resolve(str(tmp_path / "first run"))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write"):
        save_student(tmp_path / "file" / "run", student())
