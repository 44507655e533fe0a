"""The demonstration: a true result from nothing but what is installed."""

from __future__ import annotations

from potstill.console import Console
from potstill.run import RunResult, distill, train
from potstill.runs import auto_name

DEMO_TEACHER, DEMO_STUDENT, DEMO_LABELS = "zoo:cnn(widths=(16, 32, 32))", "zoo:cnn(widths=(8, 16))", 30


def demo(out: str = "runs", seeds: int = 3, console: Console | None = None) -> RunResult:
    """A true result from nothing but what is installed: a teacher that saw all labels of scikit-learn's digits teaches a
    student ten times smaller, which has the pictures but only 30 labels; beside it the same student from the 30 labels."""
    from potstill.config.load import resolve as resolve_config

    console = console or Console()
    console.say(f" 1. A teacher learns from all labels of the digits ({DEMO_TEACHER}).")
    flags = {"data.source": "digits", "out": out, "epochs": 30}
    teacher = train(
        resolve_config(
            [], [], {**flags, "student.model": DEMO_TEACHER, "name": auto_name("demo", "teacher")}, "train"
        ).config,
        console=console,
    )
    console.say(
        f"\n 2. It teaches a student ten times smaller, which sees all pictures but only {DEMO_LABELS} labels.\n"
        f"    The same student alone learns from the {DEMO_LABELS} labels, for as many steps."
    )
    flags |= {
        "student.model": DEMO_STUDENT,
        "teacher.model": str(teacher.path),
        "data.labels": DEMO_LABELS,
        "seeds": seeds,
    }
    return distill(resolve_config([], [], {**flags, "name": auto_name("demo")}, "distill").config, console=console)
