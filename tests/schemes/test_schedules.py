import pytest

from potstill.schemes import Ramp


def test_linear_cosine_and_step() -> None:
    linear, cosine = Ramp(4, 1, 0.2, 0.6), Ramp(4, 1, 0.2, 0.6, "cosine")
    assert [linear(p) for p in (0, 0.2, 0.4, 0.6, 1)] == pytest.approx([4, 4, 2.5, 1, 1])
    assert [cosine(p) for p in (0, 0.4, 1)] == pytest.approx([4, 2.5, 1])
    assert 4 > cosine(0.25) > linear(0.25)
    step = Ramp(1, 0, 0, 0.96, "step")  # CRCD switches distillation off for the last epochs
    assert [step(p) for p in (0, 0.5, 0.959, 0.96, 1)] == [1, 1, 1, 0, 0]
