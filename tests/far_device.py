"""A second device for machines that have none: torch's backend in Python. Its tensors are elsewhere for torch: an operation
on one of them and one of the CPU is an error, and only ``to`` goes from one to the other.

    python -m tests.far_device TEACHER_RUN FOLDER        # trains with the teacher there, and on the CPU
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

ran: list[str] = []


class Far(torch.Tensor):
    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Far:
        made = torch._C._acc.create_empty_tensor(here.shape, here.dtype)
        made.__class__ = Far
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __init__(self, here: torch.Tensor) -> None:
        self.here = here


def here(v: Any) -> Any:
    return v.here if isinstance(v, Far) else torch.device("cpu") if isinstance(v, torch.device) else v


def there(v: Any) -> Any:
    return Far(v) if isinstance(v, torch.Tensor) and not isinstance(v, Far) else v


def run(op: Any, *args: Any, **kwargs: Any) -> Any:
    if any(isinstance(a, torch.Tensor) and not isinstance(a, Far) and a.ndim for a in args):
        raise RuntimeError(f"{op}: tensors on two devices")
    ran.append(str(op))
    return tree_map(there, op(*tree_map(here, args), **tree_map(here, kwargs)))


def copied(a: Any, b: Any, non_blocking: bool = False) -> Any:
    (b.here if isinstance(b, Far) else b).copy_(here(a))
    return b


def convolution(*args: Any) -> Any:
    return run(torch.ops.aten.convolution.default, *args)


def install() -> list[torch.library.Library]:
    _setup_privateuseone_for_python_backend("far")
    rest, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    rest.fallback(run, "PrivateUse1")
    for name, function in {
        "_copy_from": copied,
        "detach": lambda x: Far(x.here),
        "convolution_overrideable": convolution,
        "empty.memory_format": lambda size, dtype=None, **_: Far(torch.empty(size, dtype=dtype)),
        "empty_strided": lambda size, stride, dtype=None, **_: Far(torch.empty_strided(size, stride, dtype=dtype)),
    }.items():
        aten.impl(name, function, "PrivateUse1")
    return [rest, aten]


def main(teacher: str, folder: str) -> None:
    libraries = install()
    import potstill

    runs = []
    for device in (None, "far"):
        ran.clear()
        runs.append(
            potstill.distill(
                {"model": teacher, "device": device}, "zoo:cnn(widths=(4, 8))", {"source": "digits", "limit": 200},
                method="at+kd", epochs=2, control=False, quiet=True, track=[], out=folder, name=str(device), device="cpu",
            )
        )  # fmt: skip
        print(device, sum("convolution" in op for op in ran), "convolutions there")
        assert bool(ran) == (device is not None)
    a, b = (run.student.state_dict() for run in runs)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # it keeps its tensors in another order
    assert all(p.device.type == "cpu" for p in runs[1].student.parameters())
    del libraries


if __name__ == "__main__":
    main(*sys.argv[1:])
