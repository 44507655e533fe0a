"""What a sweep says while it runs, on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from potstill.console import Console
from potstill.rehearse import human
from potstill.search import facts
from potstill.search.ledger import Ledger
from potstill.search.plan import Plan
from potstill.search.space import published


class Teller:
    """Says what will happen, each trial that is over, and what came out."""

    def __init__(self, plan: Plan, ledger: Ledger, console: Console) -> None:
        self.plan, self.ledger, self.console = plan, ledger, console
        self.shown: set[int] = set()
        self.reasons: set[str] = set()

    def lines(self, lines: list[str]) -> None:
        """Lines of a preflight."""
        for line in lines:
            self.console.say(f" {line}")

    def announce(self) -> None:
        """What is searched, how, and how long it takes."""
        say, plan = self.console.say, self.plan
        say(f"\n sweep    {self.plan.folder}")
        aim = f"; and few {plan.second}" if plan.second else ""
        say(f" aim      top-1 on the validation data, as high as can be{aim}. The test data choose nothing")
        for i, line in enumerate(facts.space_lines(plan.dimensions)):
            say(f" {'over' if i == 0 else '':<8} {line}")
        if plan.prunes:
            say(f"          pruned after the training, then distilled back for {plan.recovery} epoch(s)")
        there = len(self.ledger.trials())
        say(f" trials   {plan.trials}" + (f", of which {there} are there" if there else ""))
        said = "one worse than the median is stopped early" if plan.stop else "no trial is stopped early"
        said = "with two aims no trial is stopped early" if plan.second else said
        first = (
            " The first has the settings as published."
            if len(published(plan.dimensions, plan.base.config)) == len(plan.dimensions)
            else ""
        )
        say(f"          each as long as the budget above says; {said}.{first}")
        if plan.together > 1:
            one = "the teacher's part of that comes once for all of them"
            say(f" together {plan.together} trials at once, in the memory of so many students; {one}")
        if not there:
            say()

    @contextlib.contextmanager
    def status(self, who: str) -> Iterator[Callable[[str], None]]:
        """A line on a terminal that says how far a trial is, or several are."""
        rich = self.console.rich
        if not rich.is_terminal or rich.quiet or self.console.verbose:
            yield lambda text: None
            return
        with rich.status(who) as shown:
            yield lambda text: shown.update(f"{who}  {text}")

    def apart(self, reason: str) -> None:
        """Why a trial has a pass of the teacher for itself; each reason once."""
        if reason not in self.reasons:
            self.reasons.add(reason)
            self.console.say(f" note     not on one pass of the teacher, but after the others: {reason}")

    def news(self) -> None:
        """A line for every trial that is over and was not said, of whichever worker."""
        found = facts.rows(self.ledger)
        top = facts.front(found, self.plan.second) if self.plan.second else [facts.best(found)]
        stars = {r["number"] for r in top if r}
        rows = {r["number"]: r for r in found if r["state"] != "running"}
        fresh = [r for number, r in rows.items() if number not in self.shown]
        over = len(rows) - len(fresh)
        if not self.shown and fresh:
            head = f"  {'over':>9}  {'trial':>5}  {'val top-1':>9}  {self.plan.second or '':>12}    settings"
            self.console.say(head)
        for row in fresh:
            over += 1
            self.shown.add(row["number"])
            mark = "*" if row["number"] in stars else " "
            cost = f"{row['costs'][self.plan.second]:>12,.5g}" if self.plan.second in row["costs"] else " " * 12
            value = f"{100 * row['value']:>9.2f}" if row["value"] is not None else " " * 9
            tail = "" if row["state"] == "done" else f"  {row['state']}: {row['why'] or 'too often'}"
            line = f"  {f'{over}/{self.plan.trials}':>9}  {row['number']:>5}  {value}{mark} {cost}  "
            self.console.say(line + f"{facts.written(row['settings'])}{tail}".replace("\n", " "))
        if fresh:
            self._estimate(list(rows.values()))

    def _estimate(self, rows: list[dict[str, Any]]) -> None:
        """After the first trial: how long the others will take."""
        took = [r["seconds"] for r in rows if r["seconds"]]
        left = self.plan.trials - len(rows)
        if self.plan.together > 1:
            left -= len(self.ledger.running())  # those beside it are as far
        if len(rows) == 1 and took and left > 0:
            self.console.say(
                f"  {'':>9}  about {human(left * took[0] / (self.plan.workers * self.plan.together))} for the other {left}"
            )

    def conclude(self, found: dict[str, Any]) -> None:
        """What came out, in a few lines."""
        say, rows = self.console.say, {r["number"]: r for r in found["trials"]}
        chosen = found["front"] or ([found["best"]] if found["best"] is not None else [])
        say()
        if running := self.ledger.running():
            say(f" note     {len(running)} trials are still at work elsewhere")
        for number in chosen:
            row, test = rows[number], facts.tested(self.plan.folder, rows[number])
            said = f"{100 * row['value']:.2f} % val" + (f", {100 * test:.2f} % test" if test is not None else "")
            cost = f", {row['costs'][self.plan.second]:,.5g} {self.plan.second}" if self.plan.second else ""
            say(
                f" {'front' if found['front'] else 'best':<8} trial {number}: {said}{cost}  {facts.written(row['settings'])}"
            )
        if found["importance"]:
            shares = ", ".join(f"{facts.short(k)} {100 * v:.0f} %" for k, v in found["importance"].items())
            say(
                f" matters  {shares} (of {sum(r['state'] == 'done' for r in found['trials'])} trials: a hint, no proof)"
            )
        say(f" page     {self.plan.folder / 'sweep.html'}")
        if found["best"] is not None:
            for line in self.plan.commands(rows[found["best"]]):
                say(f" next     {line}")
