"""Imports go one way, and what answers quickly does not load torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "potstill"

# Who may import whom: a part may import what stands in its list (and itself), nothing else of potstill.
BASE = {"errors", "extras", "files", "ranges", "types", "_version"}
SCHEME = BASE | {"taps", "adapters", "segments", "losses", "schemes"}
MAY = {
    "errors": set(),
    "extras": {"errors"},
    "files": set(),
    "ranges": set(),
    "types": set(),
    "taps": BASE,
    "adapters": BASE,
    "segments": BASE | {"taps"},
    "losses": BASE | {"adapters"},
    "schemes": BASE | {"losses", "taps", "adapters", "segments"},
    "methods": SCHEME,
    "models": BASE,
    "data": BASE,
    "cache": BASE | {"data", "taps"},
    "folding": BASE | {"taps"},
    "teacher": BASE | {"cache", "folding", "taps"},
    "metrics": BASE,
    "cost": BASE,
    "stats": set(),
    "checkpoint": BASE,
    "watch": BASE | {"checkpoint", "sharded"},
    "sharded": BASE | {"losses", "recompute", "taps"},
    "engine": BASE | {"checkpoint", "sharded", "watch"},
    "proof": BASE | {"taps"},
    "compiled": SCHEME | {"proof", "teacher"},
    "reduced": SCHEME | {"cache"},
    "recompute": SCHEME | {"proof"},
    "parted": SCHEME | {"cost"},
    "optim": BASE,
    "allocator": set(),
    "machines": BASE | {"allocator", "config", "sharded"},
    "runs": BASE,
    "clusters": BASE | {"config"},
    "console": set(),
    "config": BASE | {"methods"},
    "report": BASE | {"stats"},
    "lightning": BASE,
}


def imports(file: Path) -> set[str]:
    """The parts of potstill that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "potstill" else [f"potstill.{a.name}" for a in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("potstill.")}
    return found


@pytest.mark.parametrize("part", sorted(MAY))
def test_imports_go_one_way(part: str) -> None:
    home = SOURCE / part
    files = [*home.rglob("*.py")] if home.is_dir() else [SOURCE / f"{part}.py"]
    assert files
    for file in files:
        beyond = imports(file) - MAY[part] - {part}
        assert not beyond, f"{file.relative_to(SOURCE)} imports {', '.join(sorted(beyond))}"


def test_every_part_is_listed() -> None:
    parts = {p.stem for p in SOURCE.glob("*.py")} | {p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists()}
    jobs = {
        "adaptive",
        "adopt",
        "ahead",
        "api",
        "card",
        "chain",
        "compress",
        "control",
        "convoy",
        "deliver",
        "demo",
        "evaluate",
        "keep",
        "meant",
        "outcome",
        "pace",
        "prepare",
        "ready",
        "rehearse",
        "run",
        "search",
        "spread",
        "together",
        "trial",
    }
    top = {"__init__", "__main__", "_version", "cli", "commands", "doctor", *jobs}  # know everybody
    assert parts == {*MAY, *top}


@pytest.mark.parametrize(
    "module",
    [
        "potstill",
        "potstill.cli",
        "potstill.methods",
        "potstill.config.load",
        "potstill.models.catalog",
        "potstill.report",
    ],
)
def test_light_modules_do_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; bad = {{'torch', 'torchvision', 'lightning_fabric'}} & set(sys.modules); assert not bad, bad"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_nothing_needs_torchvision() -> None:
    code = "import sys; sys.modules['torchvision'] = sys.modules['timm'] = None; import potstill.run, potstill.api"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
