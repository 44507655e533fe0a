"""The page of one run: numbers, figures and facts poured into the template."""

from __future__ import annotations

import functools
import shlex
from typing import TYPE_CHECKING, Any

from potstill._version import __version__
from potstill.report import labels, words
from potstill.report.caveats import caveats
from potstill.report.curves import LINKS, link_names
from potstill.report.decisions import taught
from potstill.report.figures import MANY, draw
from potstill.report.numbers import ROLES
from potstill.report.pictures import pictures
from potstill.report.read import Run, dig, items, number, text

if TYPE_CHECKING:
    from jinja2 import Environment

EXTREMES = 10  # classes at either end of the table of many classes
MACHINE = ("python", "torch", "platform", "cpu", "cores", "device")
LABELS = {"cpu": "CPU", "torch": "PyTorch"}
LINES = 60  # notices, preflight lines, losses, packages that are shown


def page(run: Run, v: dict[str, Any]) -> str:
    """The whole page as HTML.

    Args:
        run: the run directory as read.
        v: its numbers, :func:`potstill.report.numbers.collect`.
    """
    from markupsafe import Markup

    table = [(r, row) for r in ROLES if (row := v["table"][r]) and any(row["last"].values())]
    costs = [(r, v["table"][r]) for r in ("teacher", "student") if v["table"][r]]
    rows = extremes(v["classes"])
    smallest, largest = (f(c["n"] for c in v["classes"]) if v["classes"] else 0 for f in (min, max))
    drawn = draw(v)
    shown = pictures(run)
    data = data_facts(run)
    notices = items(dig(run.facts, "data", "notices"))[:LINES]
    preflight = [words.clean(line, 300) for line in items(dig(run.facts, "preflight"))[:LINES]]
    losses = [loss for loss in items(dig(run.facts, "losses")) if isinstance(loss, dict)][:LINES]
    sections = {
        "table": ("Results", table),
        "seeds": ("Seeds", v["seeds"]),
        "curves": ("Training", drawn["validation"] or drawn["links"]),
        "decisions": ("Where it distils", drawn["decisions"]),
        "calibration": ("Calibration", drawn["calibration"]),
        "classes": ("Classes", drawn["classes"]),
        "pictures": ("Disagreements", shown),
        "losses": ("Losses", losses),
        "data": ("Data", data or notices or preflight),
        "again": ("Do it again", True),
        "doubts": ("Reasons to doubt", True),
    }
    names, decided = row_names(v), taught(run)
    return render(
        "run.html.j2",
        v=v,
        names=names,
        roles=[(r, names[r].lower()) for r, _ in table],
        when=words.clean(str(dig(run.facts, "finished") or dig(run.facts, "started") or "")[:16].replace("T", " ")),
        exit_code=words.clean(dig(run.facts, "exit_code") or "", 10),
        title=words.title(v),
        lead=words.lead(v),
        big=big_numbers(v),
        contents=[(anchor, label) for anchor, (label, there) in sections.items() if there],
        table=table,
        costs=costs,
        figures={name: Markup(svg) for name, svg in drawn.items()},  # made by svg.inline, which escapes
        links_left=len(link_names(v)) > LINKS,
        class_rows=rows,
        class_sizes=f"{smallest} test pictures" if smallest == largest else f"{smallest} to {largest} test pictures",
        class_step=f"{100 / max(largest, 1):.2g} points" + (" or more" if smallest < largest else ""),
        pictures=shown,
        decided=decided,
        losses=[labels.link(loss) for loss in losses],
        data=data,
        notices=notices,
        preflight=preflight,
        command=words.clean(shlex.join(str(c) for c in items(dig(run.facts, "command"))), 8000),
        environment=environment(run),
        config=run.config,
        caveats=caveats(run, v),
    )


def row_names(v: dict[str, Any]) -> dict[str, str]:
    """What the page calls each role, in the order in which they are read."""
    student = "Trained network" if v["kind"] == "train" else "Student, distilled"
    return {"student": student, "control": "Student, alone", "teacher": "Teacher"}


def render(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(version=__version__, **values)


@functools.cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("potstill.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("clean", "count", "milliseconds", "points", "share", "short", "size", "spread", "times")
    made.filters |= {name: getattr(words, name) for name in names}
    return made


def big_numbers(v: dict[str, Any]) -> list[dict[str, str]]:
    """What is read first: value, unit and spread, and what it is."""
    last = {r: dig(v, "table", r, "last", "top1") for r in ROLES}
    if not last["student"]:
        return []
    big = [
        {"role": r, "label": name.lower(), "value": words.share(s["mean"])}
        | {"after": "%" + (f" ± {words.share(s['std'])}" if s["std"] is not None else "")}
        for r, name in row_names(v).items()
        if (s := last[r])
    ]
    if d := v["difference"]:
        doubt = "" if d["low"] is None or d["significant"] else "; not significant"
        big.insert(2, {"role": "", "value": words.points(d["mean"]), "after": "points", "label": words.span(d) + doubt})
    if v["smaller"]["parameters"]:
        big.append(
            {
                "role": "",
                "value": words.times(v["smaller"]["parameters"]),
                "after": "",
                "label": "fewer parameters than the teacher",
            }
        )
    if v["kind"] == "train":
        big.append(
            {
                "role": "",
                "value": words.short(dig(v, "table", "student", "parameters")),
                "after": "",
                "label": "parameters",
            }
        )
    return big


def extremes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The classes of the table, by what the teaching changed: all where they are few, else both ends."""
    other = next((r for r in ("control", "teacher") if rows and r in rows[0]), None)
    ordered = sorted(rows, key=lambda c: c["student"] - (c[other] if other else 0))
    return ordered if len(ordered) <= MANY else ordered[:EXTREMES] + ordered[-EXTREMES:]


def data_facts(run: Run) -> list[tuple[str, str]]:
    data = dig(run.facts, "data")
    size = [s for s in items(dig(data, "size")) if number(s) is not None]
    parts = [f"{words.count(n)} {k}" for k in ("train", "val", "test") if (n := number(dig(data, k))) is not None]
    labelled = number(dig(data, "labelled"))
    facts = {
        "Source": text(dig(data, "source")),
        "Pictures": " / ".join(parts)
        + (f" ({words.count(labelled)} of the training pictures labelled)" if labelled else ""),
        "Split": text(dig(data, "split")),
        "Classes": words.count(len(items(dig(data, "classes")))) if items(dig(data, "classes")) else None,
        "Picture size": " × ".join(words.count(s) for s in size)
        + (" (channels × height × width)" if len(size) == 3 else ""),
        "Augmentation": text(dig(data, "augment")),
        "Fingerprint": text(dig(data, "fingerprint")),
    }
    return [(k, x) for k, x in facts.items() if x]


def environment(run: Run) -> list[tuple[str, str]]:
    facts = run.facts
    packages = dig(facts, "environment", "packages")
    commit = text(dig(facts, "git", "commit"))
    listed = {
        "potstill": text(dig(facts, "potstill")),
        "Code": commit and commit + (", with uncommitted changes" if dig(facts, "git", "dirty") else ", clean"),
        **{LABELS.get(k, k.capitalize()): str(x) for k in MACHINE if (x := dig(facts, "environment", k))},
        "Packages": ", ".join(f"{k} {x}" for k, x in list(packages.items())[:LINES])
        if isinstance(packages, dict)
        else None,
        "Host": text(dig(facts, "host")),
        "Started": text(dig(facts, "started")),
        "Finished": text(dig(facts, "finished")),
        "Took": words.duration(s) if (s := number(dig(facts, "seconds"))) is not None else None,
        "Teacher sha256": text(dig(facts, "teacher", "sha256")),
        "Student sha256": run.student_sha256,
    }
    return [(k, x) for k, x in listed.items() if x]
