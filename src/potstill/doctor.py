"""What this machine has, as a block to paste into an issue. Looks at torch from outside, in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from potstill._version import __version__

PACKAGES = (
    "numpy",
    "lightning-fabric",
    "pydantic",
    "typer",
    "pyyaml",
    "safetensors",
    "pillow",
    "scikit-learn",
    "matplotlib",
)
EXTRAS = ("pyarrow", "transformers", "timm", "tensorboard", "lightning")
TORCH = """
import json, torch
cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
facts = {"version": torch.__version__, "threads": torch.get_num_threads(), "cuda": torch.version.cuda}
print(json.dumps({**facts, "devices": ["cpu", *names, *(["mps"] if mps else [])]}))
"""
PATIENCE = 180


def examine() -> dict[str, Any]:
    """Versions, hardware, and what is wrong, in ``problems``: one sentence each with what to do."""
    torch, why = probe(TORCH)
    facts: dict[str, Any] = {
        "potstill": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": _cores(),
        "memory": _memory(),
        "disk": _disk(Path.cwd()),
        "cache": _cache(),
        "torch": json.loads(torch) if torch else None,
        "torchvision": _torchvision(),
        "packages": {name: _version(name) for name in PACKAGES},
        "extras": {name: _version(name) for name in EXTRAS},
    }
    facts["problems"] = _problems(facts, why)
    return facts


def text(facts: dict[str, Any]) -> str:
    """The facts as a block of lines."""
    torch, packages = facts["torch"], {k: v or "missing" for k, v in facts["packages"].items()}
    lines = {
        "potstill": facts["potstill"],
        "python": facts["python"],
        "platform": facts["platform"],
        "cpu": f"{facts['cpu']}, {facts['cores']} cores",
        "memory": facts["memory"],
        "disk": facts["disk"],
        "cache": facts["cache"]["text"],
        "torch": f"{torch['version']}, {torch['threads']} threads, CUDA {torch['cuda'] or 'none'}"
        if torch
        else "cannot be imported",
        "devices": ", ".join(torch["devices"]) if torch else "unknown",
        "torchvision": facts["torchvision"]["text"],
        "packages": ", ".join(f"{k} {v}" for k, v in packages.items()),
        "extras": ", ".join(f"{k} {v}" for k, v in facts["extras"].items() if v) or "none",
    }
    problems = [f"problem: {problem}" for problem in facts["problems"]] or ["no problem found"]
    return "\n".join([*(f"{k:<12} {v}" for k, v in lines.items()), *problems])


def probe(code: str) -> tuple[str | None, str]:
    """Run Python code in a process of its own: what it printed last, or None and the last line of its complaint."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{type(error).__name__}: no answer"
    if done.returncode:
        complaint = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return None, complaint[-1][:200]
    return (done.stdout.strip().splitlines() or [""])[-1], ""


def fitting_torchvision(torch: str) -> str:
    """The torchvision made for a torch: 2.13 goes with 0.28, and so on since 2.0 and 0.15."""
    _, minor, *_ = torch.split("+")[0].split(".")
    return f"0.{int(minor) + 15}"


def _torchvision() -> dict[str, Any]:
    version = _version("torchvision")
    if version is None:
        return {"version": None, "works": False, "text": "not installed (not needed)"}
    _, why = probe("import torchvision")
    return {
        "version": version,
        "works": not why,
        "text": f"{version}, works" if not why else f"{version}, broken: {why}",
    }


def _problems(facts: dict[str, Any], why: str) -> list[str]:
    found = []
    torch, vision = facts["torch"], facts["torchvision"]
    if torch is None:
        found.append(f"torch cannot be imported: {why}. See https://pytorch.org/get-started/locally")
    if vision["version"] and not vision["works"]:
        fits = (
            f'pip install "torchvision=={fitting_torchvision(torch["version"])}.*"'
            if torch
            else "pip install -U torch torchvision"
        )
        found.append(
            f"torchvision {vision['version']} is broken: {fits}, or uninstall it (potstill does not need it, timm does)"
        )
    found += [
        f"{name} is missing: pip install {name}" for name, version in facts["packages"].items() if version is None
    ]
    if not facts["cache"]["writable"]:
        found.append(f"the cache {facts['cache']['path']} cannot be written: set POTSTILL_CACHE to a folder of yours")
    if shutil.disk_usage(Path.cwd()).free < 1 << 30:
        found.append("less than 1 GB is free on this disk")
    return found


def _cache() -> dict[str, Any]:
    path = Path(os.environ.get("POTSTILL_CACHE") or Path("~/.cache/potstill").expanduser())
    home = next(p for p in (path, *path.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=home):
            writable = True
    except OSError:
        writable = False
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else 0
    return {
        "path": str(path),
        "bytes": size,
        "writable": writable,
        "text": f"{path}, {_bytes(size)}" + ("" if writable else ", not writable"),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return f"{_bytes(page * os.sysconf('SC_AVPHYS_PAGES'))} free of {_bytes(page * os.sysconf('SC_PHYS_PAGES'))}"
    except (AttributeError, ValueError, OSError):
        return "unknown"


def _disk(path: Path) -> str:
    usage = shutil.disk_usage(path)
    return f"{_bytes(usage.free)} free of {_bytes(usage.total)}"


def _bytes(n: float) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.1f} MB"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
