"""Every compiled path equals eager in value and gradient."""

import copy

import pytest
import torch

from potstill.compiled import compile_nets
from potstill.losses import CE, KD, FitNet
from potstill.schemes import Link, offline, total
from tests.engine_case import Digits, net


@pytest.mark.slow
def test_a_compiled_scheme_has_the_gradient_of_the_eager_one() -> None:
    torch.manual_seed(0)
    student, teacher = net(4, dropout=0.0), net(8)
    eager = offline(student, teacher, [Link(CE(), 0.1, teacher=None), Link(KD(), 0.9)])
    compiled = copy.deepcopy(eager)
    assert compile_nets(compiled, "cpu") == []
    for batch in Digits(size=40, n=120).epoch(0):
        values = []
        for scheme in (eager, compiled):
            scheme.zero_grad()
            loss = total(scheme(batch))
            loss.backward()
            values.append((loss, torch.cat([p.grad.flatten() for p in scheme.parameters()])))
        torch.testing.assert_close(values[0][0], values[1][0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(values[0][1], values[1][1], rtol=1e-3, atol=1e-5)
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    for a, b in zip(compiled.state_dict().values(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_net_that_is_listened_to_is_not_compiled() -> None:
    scheme = offline(net(4), net(8), [Link(FitNet((4, 8, 8), (8, 8, 8)), at="0")])
    notices = compile_nets(scheme, "cpu")
    assert len(notices) == 2
    assert "listened to at 0" in notices[0]
    assert scheme(next(Digits().epoch(0)))["fitnet"].shape == (32,)
