import pytest

from potstill.errors import ModelError
from potstill.models.spec import parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("zoo:resnet20", ("zoo", "", "resnet20", {})),
        (" resnet20 ", ("zoo", "", "resnet20", {})),
        ("cnn(widths=(8, 16))", ("zoo", "", "cnn", {"widths": (8, 16)})),
        ("zoo:cnn(widths=[4], num_classes=-3)", ("zoo", "", "cnn", {"widths": [4], "num_classes": -3})),
        ("zoo:cnn()", ("zoo", "", "cnn", {})),
        ("wrn-40-2", ("zoo", "", "wrn-40-2", {})),
        ("timm:resnet50.a1_in1k", ("timm", "", "resnet50.a1_in1k", {})),
        ("timm:hf-hub:owner/name(drop_rate=0.1)", ("timm", "", "hf-hub:owner/name", {"drop_rate": 0.1})),
        ('torchvision:resnet18(weights="DEFAULT")', ("torchvision", "", "resnet18", {"weights": "DEFAULT"})),
        ("hf:microsoft/resnet-50", ("hf", "", "microsoft/resnet-50", {})),
        ("hf:C:\\my nets (old)\\vit", ("hf", "", "C:\\my nets (old)\\vit", {})),
        ("net.py:Net", ("file", "net.py", "Net", {})),
        ("C:\\nets\\net.py:Net(width=2)", ("file", "C:\\nets\\net.py", "Net", {"width": 2})),
        ("my nets (v2)/Größe.py:Größe(größe=1)", ("file", "my nets (v2)/Größe.py", "Größe", {"größe": 1})),
        ("a/net.py:Net(path='b.py:C(x=1)', y=')')", ("file", "a/net.py", "Net", {"path": "b.py:C(x=1)", "y": ")"})),
        ("pkg.mod:Outer.make(depth=3)", ("module", "pkg.mod", "Outer.make", {"depth": 3})),
        ("runs/a b", ("run", "runs/a b", "", {})),
        ("C:\\runs\\x", ("run", "C:\\runs\\x", "", {})),
        ("~/runs/x", ("run", "~/runs/x", "", {})),
    ],
)
def test_forms(text: str, expected: tuple[object, ...]) -> None:
    assert tuple(parse(text)) == expected


def test_a_folder_here_is_a_run_but_never_hides_a_net(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "resnet20").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse("mine").source == "run"
    assert parse("resnet20").source == "zoo"


@pytest.mark.parametrize(
    "text",
    [
        "zoo:cnn(8)",
        "zoo:cnn(**{'a': 1})",
        "zoo:cnn(widths=open('x'))",
        "zoo:cnn(widths=__import__('os').getcwd())",
        "zoo:cnn(a=1, a=2)",
        "zoo:cnn(a=1).b(c=2)",
        "zoo:cnn(a=" + "(" * 5000 + ")" * 5000 + ")",
        "net.py:Net(a=b)",
    ],
)
def test_arguments_are_literals_by_name(text: str) -> None:
    with pytest.raises(ModelError, match=r"names and literal values"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [("resnt20", "'resnet20'"), ("net.py", "net.py:NAME"), ("", "Expected zoo:NAME"), ("mobilenetv3", "'mobilenetv2'")],
)
def test_what_is_no_form_gets_help(text: str, says: str) -> None:
    with pytest.raises(ModelError) as e:
        parse(text)
    assert says in str(e.value)
