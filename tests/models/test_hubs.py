"""Libraries that may be missing or broken; and transformers, for real, from a folder that the test writes."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from potstill.errors import MachineError, ModelError, RefusedError
from potstill.models import load_student, resolve, save_student
from potstill.models.hubs import from_processor


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_missing_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MachineError, match=f"a {package} net needs {package}, which is not installed") as e:
        resolve(f"{package}:resnet18")
    assert f'pip install "potstill[{package}]"' in str(e.value)
    assert e.value.exit_code == 6


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("hub") / "tiny vit (ü)"
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        id2label=dict(enumerate(["zebra", "eel", "cat"])),
    )
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    processor = {"do_resize": True, "size": {"height": 16, "width": 16}, "do_rescale": True, "rescale_factor": 1 / 255}
    processor |= {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def test_a_net_of_transformers(vit: Path) -> None:
    net = resolve(f"hf:{vit}", num_classes=99, in_channels=1)
    assert type(net.module).__name__ == "ViTForImageClassification"
    assert net.classes == ["zebra", "eel", "cat"]
    assert net.preprocess is not None
    assert net.preprocess.to_json() == {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "size": [16, 16],
        "channels": 3,
    }
    assert net.module(net.preprocess(torch.rand(2, 1, 8, 8))).logits.shape == (2, 3)
    assert all(k.startswith(("vit.", "classifier.")) for k in net.module.state_dict())


def test_a_net_of_the_hub_is_pinned_to_its_commit(vit: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--someone--vit"  # how the library keeps what it fetched
    shutil.copytree(vit, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    net = resolve("hf:someone/vit", cache_dir=str(tmp_path), local_files_only=True, token="secret")
    assert net.spec == "hf:someone/vit"
    assert net.kwargs == {"revision": commit}
    assert net.sha256 == hashlib.sha256((vit / "model.safetensors").read_bytes()).hexdigest()
    assert net.path == str(repo / "snapshots" / commit / "model.safetensors")
    assert net.preprocess is not None


def test_it_is_float32_whatever_the_checkpoint(vit: Path, tmp_path: Path) -> None:
    resolve(f"hf:{vit}").module.half().save_pretrained(tmp_path)
    net = resolve(f"hf:{tmp_path}")
    assert {p.dtype for p in net.module.parameters()} == {torch.float32}
    assert any("preprocessor_config.json" in n for n in net.notices)
    assert net.preprocess is None


def test_a_new_head_is_said(vit: Path, tmp_path: Path) -> None:
    resolve(f"hf:{vit}").module.vit.save_pretrained(tmp_path)
    net = resolve(f"hf:{tmp_path}", num_labels=4)
    assert any("2 tensors are not in the checkpoint" in n and "classifier.weight" in n for n in net.notices)
    assert net.classes is None  # LABEL_0 ... are no names
    assert net.kwargs == {"num_labels": 4}


def test_a_student_of_transformers_comes_back(vit: Path, tmp_path: Path) -> None:
    shutil.copytree(vit, tmp_path / "vit")
    net = resolve(f"hf:{tmp_path / 'vit'}")
    with torch.no_grad():
        net.module.classifier.weight.mul_(2)
    save_student(tmp_path, net)
    (tmp_path / "vit" / "model.safetensors").unlink()  # what it learned comes from the run alone
    again = load_student(tmp_path)
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(again.module.eval()(x).logits, net.module.eval()(x).logits)
    assert again.classes == net.classes


def test_a_missing_folder_is_never_looked_for_on_the_network(vit: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no folder .*tiny vot.*tiny vit"):
        resolve(f"hf:{vit.parent / 'tiny vot (ü)'}")
    with pytest.raises(ModelError, match="there is no folder"):
        resolve("hf:./vit")
    with pytest.raises(ModelError, match="there is no folder"):
        resolve("hf:nets/old/vit")


def test_no_network_is_said() -> None:
    with pytest.raises(ModelError, match="hf:nobody/nothing@v1 cannot be loaded") as e:
        resolve("hf:nobody/nothing@v1", local_files_only=True)
    assert "hf download" in str(e.value)
    assert "HF_HOME" in str(e.value)
    assert len(str(e.value).splitlines()) <= 6


def test_code_that_a_repository_brings_is_refused(vit: Path, tmp_path: Path) -> None:
    config = json.loads((vit / "config.json").read_text()) | {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Net"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\n")
    with pytest.raises(RefusedError, match="brings its own code"):
        resolve(f"hf:{tmp_path}")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"size": 224, "image_mean": [0.5], "image_std": [0.5]}, {"size": [224, 224]}),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 200}},
            {"size": [224, 200]},
        ),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, {"size": [224, 224]}),
        ({"size": 224, "do_resize": False}, {"size": None}),
        ({"do_normalize": False, "image_mean": [0.5], "image_std": [0.5]}, {"mean": [0.0], "std": [1.0]}),
    ],
)
def test_forms_of_a_processor(config: dict[str, object], expected: dict[str, object]) -> None:
    said = from_processor(config, 3).to_json()
    assert {k: said[k] for k in expected} == expected


def test_other_scales_of_a_processor_are_folded_in() -> None:
    x = torch.rand(2, 3, 4, 4)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    m, s = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    config = {"image_mean": mean, "image_std": std, "rescale_factor": 1 / 127.5, "rescale_offset": True}
    torch.testing.assert_close(from_processor(config, 3)(x), (2 * x - 1 - m) / s)
    torch.testing.assert_close(
        from_processor({**config, "do_rescale": False, "rescale_offset": False}, 3)(x), (255 * x - m) / s
    )
