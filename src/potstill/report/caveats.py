"""Reasons to doubt: what the numbers of this run do not say."""

from __future__ import annotations

from typing import Any

from potstill.report.read import Run, dig
from potstill.report.words import count, plural, points


def caveats(run: Run, v: dict[str, Any]) -> list[str]:
    """One sentence or two each, the gravest first."""
    said = []
    if wrong := [c["net"] for c in v["checks"] if not c["same"]]:
        said.append(
            f"The recorded top-1 of {', '.join(wrong)} does not follow from the saved logits: see the table below."
        )
    n, error = v["test"]["n"], v["test"]["standard_error"]
    if n and error is not None:
        said.append(
            f"There are {plural(n, 'test picture')}: drawing others would move each accuracy by about "
            f"{points(error).lstrip('+')} points (one standard error). "
            + ("An interval over seeds does not hold this." if len(v["seeds"]) > 1 else "")
        )
    ran = dig(v, "table", "student", "last", "top1", "n")
    if ran == 1:
        said.append("One seed: another one may turn the sign of a small difference. Three or more tell (seeds=3).")
    elif ran and ran < 5:
        said.append(f"{count(ran)} seeds: the standard deviation itself is only roughly known.")
    if dig(v, "table", "student", "best", "top1"):
        said.append(
            "The best epoch is chosen on the validation pictures, never on the test pictures. Headline, difference, curves of "
            "calibration and classes are those of the last epoch, which nobody chose."
        )
    if v["kind"] != "train":
        if not v["table"]["control"]:
            said.append("No student was trained alone: whether the teacher helped is not known (control=true).")
        labelled, train = (v["data"][k] for k in ("labelled", "train"))
        if labelled and train and labelled < train:
            said.append(
                f"Student and control knew {count(labelled)} of {count(train)} labels; how many the teacher learned from is "
                "not recorded here. A gain may be the labels that it passes on."
            )
        said.append("The control shares every setting with the student. It was not tuned for training alone.")
    if dig(run.facts, "git", "dirty"):
        said.append("The code had changes that were not committed: the commit alone does not repeat this run.")
    said.append(
        "One data set, one split, one machine. Latency was taken on this machine at batch 1 and says little of others."
    )
    return said
