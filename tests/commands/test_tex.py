from __future__ import annotations

import re

import pytest

from potstill.commands.tex import plain, readable
from potstill.config.introspect import read_class
from potstill.losses import zoo


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"\alpha T^2", "α T²"),
        (r"\frac{1}{B}", "1/B"),
        (r"\frac1{B^2} \sum_{jk}", "(1 / B²) Σ_jk"),
        (r"\log \frac{p^t_{bc}}{p^s_{bc}}", "log (p^t_bc / p^s_bc)"),
        (r"\frac{a + b}{\sqrt{d}}", "((a + b) / √(d))"),
        (r"\frac{\frac{a}{b}}{c}", "((a/b) / c)"),
        (r"C^{1 - \gamma}", "C^(1 - γ)"),
        (r"\hat p^t \,\|\, q", "p\u0302^t  ‖  q"),
        (r"\mathrm{softmax}(z_b)_{y_b}", "softmax(z_b)_(y_b)"),
        (r"l \in \{4, 2\}", "l ∈ {4, 2}"),
        (r"A A^\top", "A Aᵀ"),
        (r"\begin{cases} 0 & s \le 0 \\ s & \text{else} \end{cases}", "{ 0, s ≤ 0; s, else }"),
        (r"\left[ x \right]", "[ x ]"),
        (r"\unknownword x", "unknownword x"),
    ],
)
def test_a_formula_in_unicode(tex: str, expected: str) -> None:
    assert readable(tex) == expected


def test_blocks_and_roles() -> None:
    doc = "First.\n\n.. math:: a = \\alpha,\n          b = 2\n\nWith :math:`\\beta` see :class:`~potstill.losses.KD` and ``x``.\n"
    assert plain(doc) == "First.\n\n    a = α,\n    b = 2\n\nWith β see KD and x.\n"


@pytest.mark.parametrize("name", zoo())
def test_no_mark_is_left_in_the_formulas_of_the_zoo(name: str) -> None:
    doc = plain(read_class(f"potstill.losses.{zoo()[name]}:{name}").doc)
    assert not re.search(r":math:|:class:|\.\. math|\\frac|\\sum|\\begin|``", doc)
