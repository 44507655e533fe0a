"""Docstrings for a terminal: formulas in Unicode, the marks of reStructuredText taken off."""

from __future__ import annotations

import re
from collections.abc import Callable

LETTERS = """alpha α beta β gamma γ delta δ epsilon ε varepsilon ε zeta ζ eta η theta θ kappa κ lambda λ mu μ nu ν xi ξ pi π rho ρ
sigma σ tau τ phi φ varphi φ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Sigma Σ Phi Φ Psi Ψ Omega Ω ell ℓ sum Σ prod Π
cdot · times × odot ⊙ circ ∘ pm ± le ≤ leq ≤ ge ≥ geq ≥ ne ≠ neq ≠ approx ≈ in ∈ notin ∉ cup ∪ cap ∩ to → rightarrow → leftarrow ←
infty ∞ partial ∂ nabla ∇ top ᵀ mid | ldots … dots … cdots … langle ⟨ rangle ⟩ lVert ‖ rVert ‖ Vert ‖ lvert | rvert | star *
ast * sqrt √ sim ~ propto ∝ forall ∀ perp ⊥"""
SYMBOLS = dict(zip(LETTERS.split()[::2], LETTERS.split()[1::2], strict=True))
ACCENTS = {"hat": "\u0302", "til": "\u0303", "bar": "\u0304", "ove": "\u0304", "wid": "\u0302", "vec": "\u20d7"}
SMALL = str.maketrans("0123456789+-=nTi", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼ⁿᵀⁱ")
FUNCTIONS = {"max", "min", "log", "exp", "tanh", "cos", "sin", "det", "arg", "dim"}
ARGUMENT = r"(?:\{([^{}]*)\}|(\w))"
STEPS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"\\(?:mathrm|mathbf|mathcal|mathbb|text|operatorname|boldsymbol|bm)\*?\s*\{([^{}]*)\}", r"\1"),
    (r"\\(?:hat|tilde|bar|overline|widehat|vec)\s*\{?(\w)\}?", lambda m: m[1] + ACCENTS[m[0][1:4]]),
    (rf"\\[dt]?frac\s*{ARGUMENT}\s*{ARGUMENT}", lambda m: _fraction(m[1] or m[2], m[3] or m[4])),
    (r"\\sqrt\s*\{([^{}]*)\}", r"√(\1)"),
    (r"\^\{([0-9+\-=nTi]+)\}|\^([0-9nTi])(?!\w)", lambda m: (m[1] or m[2]).translate(SMALL)),
    (r"([_^])\{([^{}]*)\}", lambda m: m[1] + (m[2] if len(m[2]) < 4 and m[2].isalnum() else f"({m[2]})")),
    (r"\\([a-zA-Z]+)", lambda m: SYMBOLS.get(m[1], m[1] if m[1] in FUNCTIONS else m[0])),
]
"""What is done again and again, from the inside out, until nothing changes."""
SPACES = re.compile(r"\\(?:quad|qquad|[,;:! ])|(?<=\w)~(?=\w)")
BLOCK = re.compile(r"^\.\. math::[ ]*((?:.|\n(?=[ \t]+\S|[ \t]*\n[ \t]))*)", re.MULTILINE)
ROLE = re.compile(r":(\w+):`~?([^`]+)`")


def plain(doc: str) -> str:
    """A docstring as a terminal shows it."""
    doc = BLOCK.sub(lambda m: "    " + "\n    ".join(readable(line.strip()) for line in m[1].strip().splitlines()), doc)
    doc = ROLE.sub(lambda m: readable(m[2]) if m[1] == "math" else m[2].rpartition(".")[2], doc)
    return doc.replace("``", "").replace("`", "")


def readable(tex: str) -> str:
    """A formula of LaTeX in Unicode, as far as a line of text can say it."""
    tex = re.sub(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits|nolimits)(?![a-zA-Z])", "", tex)
    tex = re.sub(r"\\begin\{cases\}(.*?)\\end\{cases\}", _cases, tex)
    tex = SPACES.sub("  " if "quad" in tex else " ", tex)
    for mark, sign in ((r"\|", "‖"), (r"\{", "⦃"), (r"\}", "⦄"), (r"\_", "_")):
        tex = tex.replace(mark, sign)
    before = ""
    while before != tex:
        before = tex
        for pattern, by in STEPS:
            tex = re.sub(pattern, by, tex)
    tex = tex.replace("{", "").replace("}", "").replace("\\", "").replace("⦃", "{").replace("⦄", "}").replace("^ᵀ", "ᵀ")
    return re.sub(r" {3,}", "  ", tex).strip()


def _cases(match: re.Match[str]) -> str:
    """``{ 0, x < 0; x, else }``."""
    return "⦃" + re.sub(r"\s*&\s*", ", ", match[1]).replace(r" \\", ";") + "⦄"


def _fraction(above: str, below: str) -> str:
    short = len(above) == len(below) == 1
    return f"{above}/{below}" if short else f"({_group(above)} / {_group(below)})"


def _group(text: str) -> str:
    """In brackets where it is more than one factor."""
    return text if re.fullmatch(r"[\w^_.|‖()√]+", text.strip()) else f"({text.strip()})"
