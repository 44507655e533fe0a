"""The trials of a worker: one after the other, or several side by side on one pass of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from potstill.console import Console
from potstill.convoy import Convoy
from potstill.engine import finished
from potstill.errors import DivergedError, InterruptedRun, MachineError, PotstillError
from potstill.search.one import Stopped, attempt_by_step
from potstill.search.space import PRUNE
from potstill.together import Chorus, Place, side_by_side
from potstill.trial import Stop

if TYPE_CHECKING:
    from potstill.search.job import Work


def asked(work: Work) -> Iterator[list[Any]]:
    """Trials to train side by side, until there are as many as were wanted.

    One that has died so often that it may not die again comes alone: those beside it may have been the reason.
    """
    ledger, plan = work.ledger, work.plan
    while True:
        trials: list[Any] = []
        while len(trials) < plan.together and (trial := ledger.ask(plan.trials, work.first)) is not None:
            frail = ledger.frail(trial)
            if frail and trials:
                ledger.put_back(trial)
            else:
                trials.append(trial)
            if frail:
                break
        if not trials:
            return
        yield trials


def trained(trials: Sequence[Any], work: Work) -> list[PotstillError | None]:
    """Train trials, tell the ledger; the errors of those that failed."""
    inner, names = work.inner(), [f"trial {t.number}" for t in trials]
    if len(trials) == 1:
        with work.teller.status(names[0]) as status:
            return [finished(_trial(trials[0], work, inner, status))]
    stop = Stop()
    convoy = Convoy(stop, work.plan.config.save_every, work.teller.apart)
    title = f"trials {', '.join(str(t.number) for t in trials)} side by side"
    with stop.listening(), work.teller.status(title) as status, Chorus(inner, title) as told:

        def voiced(name: str) -> tuple[Console, Callable[[str], None]]:
            return told.voice(name), lambda text: status(f"{name}: {text}")

        steps = {name: _trial(t, work, *voiced(name), convoy) for name, t in zip(names, trials, strict=True)}
        return side_by_side(steps, convoy.turns)


def _trial(
    trial: Any, work: Work, console: Console, status: Callable[[str], None], convoy: Convoy | None = None
) -> Generator[Place, None, PotstillError | None]:
    """One trial, told to the ledger; the error, where it failed."""
    ledger, plan, values = work.ledger, work.plan, work.ledger.values(trial)
    home = work.folder / "trials" / trial.user_attrs["home"]
    settings = {k: v for k, v in values.items() if k != PRUNE}
    epochs = 0

    def told(epoch: int, value: float) -> bool:
        nonlocal epochs
        epochs = epoch
        status(f"epoch {epoch}, {100 * value:.2f} % val")
        return ledger.report(trial, epoch, value) and epoch < config.epochs

    failed = None
    try:
        config = work.config(settings).model_copy(update={"out": str(home.parent), "name": home.name})
        outcome = yield from attempt_by_step(
            config,
            home,
            prune=values.get(PRUNE),
            recover=plan.recovery,
            objects=plan.objects,
            console=console,
            told=told,
            convoy=convoy,
        )
    except Stopped as stop:
        ledger.tell(trial, how="stopped", why=stop.what, epochs=epochs)
    except DivergedError as error:
        ledger.tell(trial, how="diverged", why=error.what, epochs=epochs)
    except InterruptedRun as error:
        ledger.put_back(trial)
        raise InterruptedRun(f"interrupted; what is done is in {work.folder}", hint="the same again") from error
    except MachineError:
        raise
    except PotstillError as error:
        ledger.tell(trial, how="failed", why=str(error), epochs=epochs)
        failed = error
    else:
        aims = [outcome.value, *([outcome.costs[plan.second]] if plan.second else [])]
        ledger.tell(trial, aims, costs=outcome.costs, epochs=outcome.epochs)
    work.over()
    return failed
