"""The contract that every loss of the zoo keeps (potstill/losses/base.py). What a loss computes, its own test says."""

from __future__ import annotations

import copy
import importlib
import io
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import potstill.losses
from potstill.errors import ModelError
from potstill.losses import Loss, zoo
from potstill.methods import PRESETS
from potstill.types import Batch, Kept

from .zoo import CLASSES, ZOO, Row, Says, batch, build, says

FILES = sorted(m.name for m in pkgutil.iter_modules(potstill.losses.__path__) if not m.name.startswith("_"))
NAMES = [name for name in FILES if name != "base"]


REDUCE = {"ab", "afd", "at", "cat_kd", "fsp", "kdsvd"}


def each(where: Callable[[str, Row], bool]) -> pytest.MarkDecorator:
    """Every loss and variant of the zoo for which ``where`` holds."""
    return pytest.mark.parametrize(
        ("name", "settings"),
        [
            pytest.param(name, settings, id="-".join([name, *map(str, settings.values())]))
            for name, row in ZOO.items()
            if where(name, row)
            for settings in row.variants
        ],
    )


every = each(lambda name, row: True)
every_taught = each(lambda name, row: name != "ce")
every_logit = each(lambda name, row: row.classes)
every_of_equals = each(lambda name, row: row.s == row.t)
every_reducing = each(lambda name, row: name in REDUCE)
two_sided = each(lambda name, row: row.classes and name != "ce")


def tensors(x: Says) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else list(x)


def mapped(x: Says, f) -> Says:
    return f(x) if isinstance(x, Tensor) else [f(one) for one in x]


def example(name: str, n: int = 6) -> tuple[Says, Says]:
    row = ZOO[name]
    return says(row.s, n, 1), says(row.t, n, 101, row.positive)


def run(loss: Loss, s: Says, t: Says, autocast: torch.dtype | None = None) -> tuple[Tensor, list[Tensor]]:
    """The rows, and the gradients by the student's features; random choices inside the loss are the same each time.

    Autocast covers the forward alone, as in training: a backward inside it would multiply in half precision.
    """
    s = mapped(s, lambda x: x.detach().clone().requires_grad_())
    torch.manual_seed(7)
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        rows = loss(s, t, batch(len(tensors(s)[0])))
    rows.mean().backward()
    return rows, [torch.zeros_like(x) if x.grad is None else x.grad for x in tensors(s)]


def finite(loss: Loss, s: Says, t: Says, autocast: torch.dtype | None = None) -> None:
    n = len(tensors(s)[0])
    rows, slopes = run(loss, s, t, autocast)
    assert rows.shape == (n,)
    assert rows.dtype == torch.float32
    assert rows.isfinite().all()
    assert all(g.isfinite().all() for g in slopes)
    assert all(p.grad is None or p.grad.isfinite().all() for p in loss.parameters())


# what a cache keeps for it


@every_taught
def test_what_it_reads_of_the_teacher_can_stand_for_what_the_teacher_says(name, settings):
    """As :meth:`Loss.reduce` promises. The signs of two singular vectors may change with the batch."""
    loss = build(name, settings)
    assert (loss.packs is not None) == (name in REDUCE and settings != {"k": 2})
    s, t = example(name)
    kept = loss.reduce(t)
    assert isinstance(kept, Kept)
    assert all(len(f) == 6 for f in kept)
    if name not in REDUCE:
        return
    if loss.packs == "signs":
        kept = Kept((f > 0).float() * 2 - 1 for f in kept)
    elif loss.packs == "values" and settings != {"resolution": 4}:  # class maps larger than the map that they are of
        assert sum(f.numel() for f in kept) < sum(f.numel() for f in tensors(t))
    (rows, slopes), (same, again) = run(copy.deepcopy(loss), s, t), run(copy.deepcopy(loss), s, kept)
    torch.testing.assert_close(same, rows)
    torch.testing.assert_close(again, slopes)


@every_reducing
def test_nothing_that_is_trained_has_a_say_in_what_is_kept_for_it(name, settings):
    loss = build(name, settings)
    t = example(name)[1]
    before = loss.reduce(t)
    with torch.no_grad():
        for p in loss.parameters():
            p.add_(0.5)
    loss.eval()
    assert all(torch.equal(a, b) for a, b in zip(loss.reduce(t), before, strict=True))


# the zoo is complete


def test_every_file_is_one_loss_with_a_row_here_a_test_and_a_preset():
    assert sorted(ZOO) == NAMES
    assert sorted(zoo().values()) == NAMES, (
        "a file of losses/ holds exactly one class derived from Loss; helpers begin with _"
    )
    here = {f.stem for f in Path(__file__).parent.glob("test_*.py")}
    assert {f"test_{name}" for name in NAMES} <= here
    used = {p.loss for p in PRESETS.values()}
    assert {f"potstill.losses.{file}:{cls}" for cls, file in zoo().items() if ZOO[file].preset} <= used


def test_the_package_finds_every_class_by_name():
    assert set(potstill.losses.__all__) == {"Loss", *zoo()}
    for cls, file in zoo().items():
        assert getattr(potstill.losses, cls) is getattr(importlib.import_module(f"potstill.losses.{file}"), cls)
        assert issubclass(getattr(potstill.losses, cls), Loss)
    with pytest.raises(AttributeError, match="KDD"):
        _ = potstill.losses.KDD


def test_listing_the_zoo_imports_no_torch():
    code = "import sys, potstill.losses; assert len(potstill.losses.__all__) > 3; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_formula_shapes_and_paper(name):
    cls = getattr(potstill.losses, next(c for c, file in zoo().items() if file == name))
    for part in (".. math::", "Shape:", "Result: (B,)", "Paper: " if name != "ce" else "arXiv"):
        assert part in cls.__doc__, f"{cls.__name__}'s docstring lacks {part!r}"
    settings = [p for p in cls.__init__.__annotations__ if p != "return"] if "__init__" in vars(cls) else []
    for setting in settings:
        assert setting in cls.__doc__, f"{cls.__name__}'s docstring does not explain {setting!r}"


@pytest.mark.parametrize(
    "name", sorted(p.name for p in PRESETS.values() if p.loss.split(":")[0].rpartition(".")[2] in ZOO)
)
def test_the_preset_builds_its_loss(name):
    preset = PRESETS[name]
    file = preset.loss.split(":")[0].rpartition(".")[2]
    assert preset.name == name
    weight = preset.weight
    assert (max(weight["from"], weight["to"]) if isinstance(weight, Mapping) else weight) > 0
    assert preset.weight_source
    finite(build(file, preset.settings), *example(file))


# values and gradients


@every
def test_gives_one_finite_number_a_sample(name, settings):
    for n in (1, 2, 6):
        finite(build(name, settings), *example(name, n))


@every
def test_teaches_the_student_and_its_own_parameters_and_leaves_the_inputs(name, settings):
    loss = build(name, settings)
    s, t = example(name)
    before = [x.clone() for x in (*tensors(s), *tensors(t))]
    _, slopes = run(loss, s, t)
    assert all(g.abs().sum() > 0 for g in slopes), "a feature of the student gets no gradient"
    idle = [n for n, p in loss.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)]
    assert not idle, f"parameters without gradient: {idle}"
    assert all(torch.equal(a, b) for a, b in zip(before, (*tensors(s), *tensors(t)), strict=True))


@every_taught
def test_reads_the_teacher(name, settings):
    s, t = example(name)
    other = mapped(t, lambda x: x.flip(0))
    assert not torch.allclose(run(build(name, settings), s, t)[0], run(build(name, settings), s, other)[0])


@every
def test_weights_of_samples_scale_its_gradient(name, settings):
    """Masks and sample weights are (w * loss).sum() / B: with w = 1 the mean's gradient, twice that with w = 2."""
    s, t = example(name)
    _, mean = run(build(name, settings), s, t)
    s = mapped(s, lambda x: x.clone().requires_grad_())
    loss = build(name, settings)
    torch.manual_seed(7)
    (2 * loss(s, t, batch(6))).sum().div(6).backward()
    for x, g in zip(tensors(s), mean, strict=True):
        torch.testing.assert_close(x.grad, 2 * g, rtol=1e-3, atol=1e-6)


# numerical traps


@every
@pytest.mark.parametrize("n", [1, 2, 6])
def test_zero_and_identical_vectors(name, settings, n):
    s, t = example(name, n)
    zero = lambda x: torch.zeros_like(x)  # noqa: E731
    one_zero = lambda x: torch.cat((torch.zeros_like(x[:1]), x[1:]))  # noqa: E731
    same = lambda x: x[:1].expand_as(x).clone()  # noqa: E731
    flat = lambda x: torch.full_like(x, 0.1)  # noqa: E731
    for of_s in (zero, one_zero, same, flat):
        finite(build(name, settings), mapped(s, of_s), t)
        finite(build(name, settings), s, mapped(t, of_s))
        finite(build(name, settings), mapped(s, of_s), mapped(t, of_s))


@every_of_equals
def test_a_student_that_says_what_the_teacher_says(name, settings):
    _, t = example(name)
    finite(build(name, settings), t, t)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features(name, settings, dtype):
    """A teacher's cached halves in a float32 training; halves of both under autocast, or alone where nothing is learned."""
    s, t = (mapped(x, lambda y: (30 * y).to(dtype)) for x in example(name))
    wide = mapped(s, lambda x: x.float())
    exact, _ = run(build(name, settings), wide, mapped(t, lambda x: x.float()))
    torch.testing.assert_close(run(build(name, settings), wide, t)[0], exact, rtol=1e-4, atol=1e-5)
    loss = build(name, settings)
    learned = any(True for _ in loss.parameters())
    finite(loss, s, t, autocast=dtype if learned else None)
    if not learned:
        torch.testing.assert_close(run(build(name, settings), s, t)[0], exact, rtol=1e-4, atol=1e-5)


@every
def test_autocast_keeps_relations_norms_and_exponentials_in_float32(name, settings):
    s, t = example(name)
    exact, _ = run(build(name, settings), s, t)
    loss = build(name, settings)
    finite(loss, s, t, autocast=torch.bfloat16)
    rows, _ = run(build(name, settings), s, t, autocast=torch.bfloat16)
    learned = any(True for _ in loss.parameters())  # adapters may run in bfloat16
    torch.testing.assert_close(rows, exact, rtol=0.1 if learned else 1e-5, atol=0.05 if learned else 1e-6)


@every_logit
def test_extreme_logits(name, settings):
    s, t = example(name)
    for a, b in ((450.0, 1.0), (1.0, 450.0), (450.0, -450.0), (450.0, 450.0)):
        extreme = [mapped(x, lambda y, k=k: k * y.sign()) for x, k in ((s, a), (t, b))]
        finite(build(name, settings), *extreme)


@every_logit
def test_two_classes_work_or_are_refused_with_a_way_out(name, settings):
    row = ZOO[name]
    two = Row((2,), (2,), facts=row.facts)
    s, t = says((2,), 6, 1), says((2,), 6, 101)
    s = s.requires_grad_()
    if row.needs_three_classes:
        with pytest.raises(ModelError, match=r"try: .*kd"):
            build(name, settings, two)(s, t, batch(6, 2))
        return
    rows = build(name, settings, two)(s, t, batch(6, 2))
    rows.mean().backward()
    assert rows.isfinite().all()
    assert s.grad is not None
    assert s.grad.isfinite().all()


@two_sided
def test_other_classes_are_refused(name, settings):
    s, t = example(name)
    one = mapped(t, lambda x: x[:, :1])  # torch would broadcast it
    for other in (one, mapped(t, lambda x: x[:, :-1]), mapped(t, lambda x: x[:1])):
        with pytest.raises(ModelError, match="shape"):
            build(name, settings)(s, other, batch(6))


# state


@every
def test_state_travels_by_state_dict_and_copies(name, settings):
    s, t = example(name)
    loss = build(name, settings)
    run(loss, s, t)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    other = build(name, settings)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    other.load_state_dict(torch.load(file, weights_only=True))
    twin = copy.deepcopy(loss)
    expected, _ = run(loss, s, t)
    torch.testing.assert_close(run(other, s, t)[0], expected)
    torch.testing.assert_close(run(twin, s, t)[0], expected)


@every
def test_holds_no_graph_and_no_hidden_tensors(name, settings):
    """What is neither parameter nor buffer is lost by checkpoints and stays behind on the CPU."""
    loss = build(name, settings)
    run(loss, *example(name))
    for module in loss.modules():
        assert isinstance(module, nn.Module)
        for key, value in vars(module).items():
            inside = value if isinstance(value, list | tuple) else [value]
            assert not any(isinstance(v, Tensor) for v in inside), f"{type(module).__name__}.{key} is a bare tensor"
        assert all(b is None or not b.requires_grad for b in module.buffers())


@every
def test_serves_batches_of_other_sizes_in_turn(name, settings):
    loss = build(name, settings)
    for n in (6, 3, 7, 1):
        finite(loss, *example(name, n))


@pytest.mark.slow
@every
def test_compiled_gives_the_same_value_and_gradient(name, settings):
    """Inductor has given wrong gradients of right values (a Gram matrix's diagonal): compare both."""
    s, t = example(name)
    rows, slopes = run(build(name, settings), s, t)
    torch.compiler.reset()
    same_draws: dict[str, str | int | bool] = {"fallback_random": True}  # random numbers as in eager
    compiled_rows, compiled_slopes = run(torch.compile(build(name, settings), options=same_draws), s, t)
    torch.testing.assert_close(compiled_rows, rows, rtol=1e-4, atol=1e-5)
    for a, b in zip(compiled_slopes, slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every
def test_on_a_gpu_as_on_the_cpu(name, settings):
    s, t = example(name)
    loss = build(name, settings)
    learned = any(True for _ in loss.parameters())
    exact, _ = run(loss, s, t)
    there = Batch(*(x.cuda() if isinstance(x, Tensor) else x for x in batch(6)))
    rows = build(name, settings).cuda()(mapped(s, lambda x: x.cuda()), mapped(t, lambda x: x.cuda()), there)
    assert rows.is_cuda
    assert rows.isfinite().all()
    if not learned:  # a loss that learns may draw numbers, and devices draw other ones
        torch.testing.assert_close(rows.cpu(), exact.detach(), rtol=1e-3, atol=1e-4)


def test_the_contract_test_would_notice():
    """The checks above can fail: a loss with a slope of 0/0 at zero, one that is a scalar, one that has a bare tensor."""

    class Root(Loss):
        def forward(self, s, t, batch=None):
            return s.square().sum(1).sqrt() + t.sum(1)

    with pytest.raises(AssertionError):
        finite(Root(), torch.zeros(3, CLASSES), torch.zeros(3, CLASSES))

    class Scalar(Loss):
        def forward(self, s, t, batch=None):
            return (s - t).square().mean()

    with pytest.raises(AssertionError):
        finite(Scalar(), torch.zeros(3, CLASSES), torch.ones(3, CLASSES))


@pytest.mark.parametrize("name", ["ab", "at", "fsp", "kdsvd", "nst", "ofd", "vid"])
def test_a_map_too_few_is_refused(name):
    loss = build(name, {})
    s, t = example(name)
    with pytest.raises(ModelError, match="as many"):
        loss(s, t[:-1])
