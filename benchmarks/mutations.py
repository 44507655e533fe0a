"""Break each loss in every small way, one at a time, and see whether a test notices.

    python -m benchmarks.mutations --only kd --only at      # about a second a mutant
    python -m benchmarks.mutations                          # the zoo: hours

A mutant is a loss's file with one term changed (see :mod:`benchmarks.mutants`). It lives in a private copy of the source tree,
and the loss's own test file and its rows of test_every_loss.py run against it; for a shared file (`--only _maps`) those of every
loss that imports it. torch and pytest are imported once; each mutant is a forked child. Mutants that no test notices are
printed with file, line and code, unless EQUIVALENT says why nothing could; the exit status is 1 if there are any.
Writes a line a file to benchmarks/results/mutations.jsonl.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import importlib
import json
import os
import pkgutil
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.mutants import Mutant, mutants

ROOT = Path(__file__).parents[1]
LOSSES = "src/potstill/losses"
RESULTS = Path(__file__).parent / "results" / "mutations.jsonl"
TIMEOUT = 60  # seconds of CPU a mutant; a test file takes a few
OURS = ("potstill", "tests")
PROMOTES = "what follows computes in the wider type of the two"
SCALE = "brought to length or sum 1 afterwards: the scale does not count"
ONE = "of one sample there is no distance: 0/0 is not above 0 and is replaced, and its slope is masked"
SPEED = "both forms give the same value; which one is faster depends on the shapes"
BOTH = "the two heads are there or neither is; it is written so for the type checker"
ONE_SIZE = "resizing to its own size leaves a map as it is"
SIGN = "the differences of two stages' vectors are the same with both signs turned; the sum's sign is the mean's"
UNUSED = "differs only where torch.where takes the other side"
EQUIVALENT: dict[tuple[str, str], str] = {
    ("afd", "power = [f.square().sum(1) for f in ss]"): SCALE,
    (
        "afd",
        "pairs = [(g.mean((2, 3)), attention(g.square().sum(1), (g.shape[2], g.shape[3]))) for g in as_list(t)]",
    ): SCALE,
    ("at", "power: Tensor = ChannelSquares.apply(f) if self.p == 2 else f.abs().pow(self.p).mean(1)"): SCALE,
    ("fsp", "a, b = (places(h if h.shape[4:] == size else pool(h, size)) for h in (f, g))"): ONE_SIZE,
    ("crcd", "if self.ours is None and self.theirs is None:"): BOTH,
    ("crcd", "if self.theirs is None:"): BOTH,
    ("crcd", "if self.ours is None:"): BOTH,
    ("ft", "a, b = (a.square().sum(1), b.square().mean(1))"): SCALE,
    ("ft", "a, b = (a.square().mean(1), b.square().sum(1))"): SCALE,
    ("ofd", "mean = mu - sigma * density / below"): UNUSED,
    ("ickd", "scale = inverse_root(flat.detach().square().mean(1, keepdim=True))"): SCALE,
    ("ickd", "scale = inverse_root(flat.square().sum(1, keepdim=True))"): "of what does not count the slope is 0",
    ("kdsvd", "with torch.autocast(ss[1].device.type, enabled=False):"): "all maps are on one device",
    ("kdsvd", "_, sigma, vh = torch.linalg.svd(x, full_matrices=True)"): "the first k are read, which are the same",
    ("kdsvd", "v = v / torch.where(v.sum(1, keepdim=True) < 0, -1.0, 1.0)"): "times or over 1 or -1",
    ("kdsvd", "v = v * torch.where(v.sum(1, keepdim=True) >= 0, -1.0, 1.0)"): SIGN,
    ("kdsvd", "v = v * torch.where(v.mean(1, keepdim=True) < 0, -1.0, 1.0)"): SIGN,
    ("kdsvd", "sigma = (x @ v).square().mean(1).sqrt()"): SCALE,
    ("kdsvd", "cos = ours.mT @ v"): "argmax and sign have no slope; autograd would carry zeros",
    ("kdsvd", "gap = values[..., -k:].flip(1)[..., None, :] - values[..., :, None]"): "of two axes the last is 1",
    (
        "mlkd",
        "samples, classes = (self.hard(sure.amax(1)), self.hard(sure.mean(0)))",
    ): "a quantile does not see the scale",
    ("reviewkd", "if x.shape[4:] != self.size:"): ONE_SIZE,
    (
        "nst",
        "a, b = (inverse_root((k * torch.eye(k.shape[2], device=k.device)).sum(2)) for k in (ss, tt))",
    ): "they are square",
    ("nst", "if s.shape[1] <= c:"): SPEED,
    ("nst", "if s.shape[1] <= C:"): SPEED,
    ("rkd", "loss = self.distance_weight * difference.mean(1)"): "what it is added to is 0",
    ("rkd", "x = x - x.mean(0)"): "distances and angles do not see the shift: its gradient is 0 either way",
    ("rkd", "same = squared <= 1e-06 * size"): "the diagonal is within rounding of 0 as it is",
    ("rkd", "mean = d.sum() / (len(d) * (len(d) - 1))"): ONE,
    ("rkd", "mean = d.sum() / max(len(d) * (len(d) - 1), 2)"): ONE,
    ("rkd", "return d / mean.where(mean > 0, 2.0)"): "divides distances that are all 0",
    ("_logits", "columns = torch.arange(logits[1].shape[1] - 1, device=y.device)"): "all have one shape",
    ("_maps", "if input.numel() == input.shape[1]:"): "in eval the running statistics are what is used either way",
    (
        "_maps",
        "return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 1.0, self.eps)",
    ): "the momentum plays no part where the statistics are not updated",
    ("_memory", "self.map = nn.Linear(shape[1] if self.tokens else shape[0], out)"): "of two axes the last is 1",
    (
        "_memory",
        "self.register_buffer('order', cls.argsort(stable=False), persistent=False)",
    ): "within a class any order will do",
    ("_memory", "dense = len(bank) > DENSE * index.shape[1]"): SPEED,
    ("_memory", "dense = len(bank) <= DENSE / index.shape[1]"): SPEED,
    ("_memory", "dense = len(bank) <= DENSE"): SPEED,
    ("_memory", "dense = len(bank) <= index.shape[1]"): SPEED,
    ("_memory", "self.known[i] = False"): "asks the device at each step, which says the same",
    ("_memory", "y = torch.full((num_samples,), -2) if labels is None else torch.as_tensor(labels).long().flatten()"): (
        "any number below 0 says that there is no label"
    ),
    (
        "_memory",
        "y = torch.where(y < 0, int(y.max()) + 2 + torch.arange(len(y)), y)",
    ): "classes are counted by their order, whatever their numbers",
    (
        "_memory",
        "log_z = self.log_constant('student' if against != 'teacher' else 'teacher', logits.flatten())",
    ): "which of the two places holds which constant has no say in what they are",
    ("_memory", "ranked, at = ids.sort(stable=False)"): "a CPU's sort is stable either way; a GPU's is not",
    ("_memory", "if not (dist.is_available() and dist.is_initialized()):"): SPEED,
    (
        "_memory",
        "if not dist.is_initialized() or dist.get_world_size() == 1:",
    ): "torch.distributed is in every build tested",
    ("_squares", "if kept <= 1:"): SPEED,
    ("_squares", "if kept > 2:"): SPEED,
    ("_squares", "if not f.is_contiguous(memory_format=torch.channels_last):"): SPEED,
    ("_squares", "difference = a - b.float() if a.dtype != torch.float64 else a - b"): PROMOTES,
    ("_squares", "difference = a.float() - b if a.dtype != torch.float64 else a - b"): PROMOTES,
}
"""(file, the changed statement): why no test can tell it from the original."""


def copy_of_the_tree(folder: Path) -> Path:
    """What the tests of losses need, compiled, in a folder of its own."""
    skip = shutil.ignore_patterns("__pycache__")
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", folder)
    compileall.compile_dir(folder / "src", quiet=1)
    return folder


def preload(tree: Path) -> None:
    """Import the tests' world once, then forget what is ours: a child imports its own, changed one."""
    sys.dont_write_bytecode = True  # a stale one of another mutant would be believed
    sys.path.insert(0, str(tree / "src"))
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    modules = ["potstill.methods.build", "potstill.config.load"]
    for module in (*modules, "safetensors.torch", "torch.distributed", "torch.multiprocessing", "torch._dynamo"):
        importlib.import_module(module)
    at = sys.modules["potstill"].__file__
    assert at is not None
    assert at.startswith(str(tree)), f"the tests would run against {at}, not against the copy"
    for name in [m for m in sys.modules if m.split(".")[0] in OURS]:
        del sys.modules[name]


class Rows:
    """A pytest plugin: keeps the tests of these losses, and notes the first that fails."""

    def __init__(self, losses: set[str], report: int) -> None:
        self.losses, self.report = losses, report

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if self.wanted(item)]

    def wanted(self, item: Any) -> bool:
        slow = any(item.iter_markers("slow")) or any(item.iter_markers("gpu"))
        own = item.path.name != "test_every_loss.py"
        params = item.callspec.params if hasattr(item, "callspec") else {}
        return not slow and (own or params.get("name") in self.losses)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            with contextlib.suppress(OSError):
                os.write(self.report, report.nodeid.removeprefix("tests/losses/").encode()[:500])


def run_tests(tree: Path, losses: set[str], own: list[str], timeout: int) -> tuple[str, str]:
    """The fate of what the tree holds now: ``passed``, ``failed`` or ``timeout``; and the first test that failed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 99
        try:
            used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            resource.setrlimit(resource.RLIMIT_CPU, (int(used) + timeout, int(used) + timeout))
            signal.alarm(10 * timeout)  # for what waits without working
            os.chdir(tree)
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            import pytest

            options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:logging"]
            plugin = Rows(losses, writer)
            code = pytest.main([*options, *own], plugins=[plugin])
            if code == 0 and losses:  # its own tests pass: now the contract
                code = pytest.main([*options, "tests/losses/test_every_loss.py"], plugins=[plugin])
        finally:
            os._exit(int(code))
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        by = pipe.read().decode(errors="replace")
    if os.WIFSIGNALED(status):
        late = os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGXCPU, signal.SIGKILL)
        return ("timeout" if late else "failed"), "a signal"
    code = os.WEXITSTATUS(status)
    if code not in (0, 1, 2):  # 2: the file cannot be imported
        raise SystemExit(f"pytest ended with {code} on {sorted(losses)}")
    return ("failed" if code else "passed"), by or ("import" if code else "")


def tests_of(name: str) -> tuple[set[str], list[str]]:
    """The losses that a file of ``losses/`` serves, and the test files that are theirs."""
    files = sorted(m.name for m in pkgutil.iter_modules([str(ROOT / LOSSES)]))
    users = {f for f in files if f"potstill.losses.{name} import" in (ROOT / LOSSES / f"{f}.py").read_text()}
    served = {name} if not name.startswith("_") else {f for f in users if not f.startswith("_")}
    wanted = [f"tests/losses/test_{f.lstrip('_')}.py" for f in sorted(served | {name})]
    return served, [f for f in wanted if (ROOT / f).exists()]


def test(tree: Path, name: str, limit: int | None, timeout: int) -> dict[str, Any]:
    """Every mutant of a file, or a random ``limit`` of them."""
    path = tree / LOSSES / f"{name}.py"
    source, stat, begun = path.read_text(encoding="utf-8"), path.stat(), time.time()
    losses, own = tests_of(name)
    if run_tests(tree, losses, own, timeout)[0] != "passed":
        raise SystemExit(f"{name}: its tests do not pass as it is")
    todo = list(mutants(source))
    if limit and limit < len(todo):
        todo = sorted(random.Random(0).sample(todo, limit), key=lambda m: m.line)
    fates: Counter[str] = Counter()
    survivors = []
    for mutant in todo:
        if (name, mutant.statement) in EQUIVALENT:
            fates["equivalent"] += 1
            continue
        path.write_text(mutant.source, encoding="utf-8")
        fate, by = run_tests(tree, losses, own, timeout)
        fates[fate] += 1
        if fate == "passed":
            survivors.append({"line": mutant.line, "before": mutant.before, "after": mutant.after})
            survivors[-1]["statement"] = mutant.statement
            print(f"{LOSSES}/{name}.py:{mutant.line}: {described(mutant)}", flush=True)
        elif os.environ.get("MUTATIONS_VERBOSE"):
            print(f"    {fate} by {by}: {described(mutant)}", flush=True)
    path.write_text(source, encoding="utf-8")
    os.utime(path, (stat.st_atime, stat.st_mtime))
    killed = fates["failed"] + fates["timeout"]
    seconds = round(time.time() - begun, 1)
    print(f"{name}: {killed} of {len(todo)} killed, {fates['equivalent']} equivalent, {seconds} s", flush=True)
    counts = {"mutants": len(todo), "killed": killed, "timeout": fates["timeout"], "equivalent": fates["equivalent"]}
    return {"file": f"{LOSSES}/{name}.py", **counts, "seconds": seconds, "survived": survivors}


def described(mutant: Mutant) -> str:
    return f"{mutant.before}  ->  {mutant.after}\n        {mutant.statement}"


def main() -> None:
    files = sorted(m.name for m in pkgutil.iter_modules([str(ROOT / LOSSES)]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", choices=files, help="this file; can be repeated")
    parser.add_argument("--limit", type=int, help="so many mutants a file at most, drawn at random")
    parser.add_argument("--timeout", type=int, default=TIMEOUT)
    a = parser.parse_args()
    survived = 0
    with tempfile.TemporaryDirectory() as name:
        tree = copy_of_the_tree(Path(name))
        preload(tree)
        from potstill.runs import git_state, now

        for module in [m for m in sys.modules if m.split(".")[0] in OURS]:
            del sys.modules[module]
        for file in a.only or [f for f in files if f not in ("base",)]:
            found = test(tree, file, a.limit, a.timeout)
            survived += len(found["survived"])
            RESULTS.parent.mkdir(exist_ok=True)
            with open(RESULTS, "a", encoding="utf-8") as out:
                out.write(json.dumps({**found, "time": now(), "git": git_state()}, ensure_ascii=False) + "\n")
    sys.exit(survived > 0)


if __name__ == "__main__":
    main()
