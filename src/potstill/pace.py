"""How fast nets run, in a run: the teacher at its own speed, compiled nets; chosen once, written down, the same on resume."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from potstill.compiled import compile_nets
from potstill.engine import Batches, split
from potstill.files import write_json
from potstill.ready import Ready
from potstill.recompute import spare
from potstill.schemes.scheme import Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.sharded import seat, sharding
from potstill.taps import Frozen, Tapped
from potstill.teacher import Sped, replay, speed_up

SHORT = 100
"""Batches of teaching below which nothing is tried: the measuring itself takes some 15 passes."""


def speed_of(ready: Ready) -> str:
    """``auto``, ``exact``, ``equal`` or ``fast``, as configured."""
    return ready.config.teacher.speed if ready.config.teacher else "auto"


def hasten(ready: Ready, schemes: Iterable[tuple[Scheme | SpotAdaptive, int]], x: torch.Tensor) -> list[str]:
    """Choose how the live teachers of schemes run, and put them in their places; lines that say so.

    What run.json says (``ready.paced``) is done again without measuring. Of several processes the first chooses for all.

    Args:
        schemes: on their device, each with the number of batches that its teacher will be asked about in the whole run.
        x: a batch of pictures as they will come.

    Raises:
        MachineError: what the run was started with is not possible here.
    """
    lines, speed = [], speed_of(ready)
    for scheme, forwards in schemes if speed in ("equal", "fast") else ():
        live = scheme.nets["teacher"] if "teacher" in scheme.active else None
        if not isinstance(live, Frozen) or not isinstance(live.net, Tapped):
            continue
        head = f"speed    teacher {speed}: "
        if type(scheme) is not Scheme:
            lines.append(f"{head}as it was given: spot-adaptive distillation runs its layers one by one")
            continue
        spots = live.net.spots
        if spots in ready.sped:
            pass
        elif spots in ready.paced:
            how = ready.paced[spots]["how"]
            with ready.fabric.autocast():
                ready.sped[spots] = Sped(replay(live.net, how, live.brought(x)), how)
            lines.append(head + (f"{', '.join(how)}, as when the run was started" if how else "as it was given"))
        elif forwards < SHORT:
            lines.append(f"{head}as it was given: {forwards} batches are too few for measuring to pay")
            ready.sped[spots] = Sped(live.net)
        else:
            ready.sped[spots] = sped = _chosen(ready, live.net, live.brought(x), forwards)
            lines.append(head + _words(sped))
            lines += [f"         {notice}" for notice in sped.notices]
        ready.swift(scheme)
    return lines


def prove(ready: Ready, schemes: Iterable[Scheme | SpotAdaptive], x: torch.Tensor) -> None:
    """Hold students whose blocks are computed again (``checkpoint_activations``) against the same ones whose are not.

    Raises:
        ModelError: they differ.
    """
    home = seat(ready.fabric) if sharding(ready.fabric) else None  # where the whole student is
    for scheme in schemes if ready.config.checkpoint_activations else ():
        with ready.fabric.autocast():
            spare(scheme.begin().train(), x[:2].to(home) if home else x)


def compile_for(
    ready: Ready, schemes: Sequence[Scheme | SpotAdaptive], stream: Batches, epochs: int, folder: Path
) -> list[str]:
    """Compile the nets of a trial as ``compile`` has it; lines that say so. ``compiled.json`` keeps what was decided: a trial
    that goes on is compiled as it was."""
    c, note = ready.config, folder / "compiled.json"
    if not c.compile:
        return []
    x = split(next(iter(stream.epoch(0))), c.accumulate)[0].x
    forwards = len(stream) * epochs * c.accumulate if c.compile == "auto" else None
    lines: list[str] = []
    decided = ready.fabric.broadcast(json.loads(note.read_text("utf-8")) if note.exists() else None)
    with ready.fabric.autocast():
        if decided is None and ready.fabric.is_global_zero:
            lines, decided = compile_nets(schemes, x, forwards=forwards)
            write_json(note, decided)
            ready.fabric.broadcast(decided)
        elif decided is None:
            compile_nets(schemes, x, decided=ready.fabric.broadcast(None))
        else:
            compile_nets(schemes, x, decided=decided)
    return lines


def written(ready: Ready) -> list[dict[str, Any]]:
    """What was chosen, for run.json: by the spots that are heard."""
    new = {spots: {"how": s.how, "ratio": round(s.ratio, 3), "kl": s.kl} for spots, s in ready.sped.items()}
    return [{"spots": list(spots), **facts} for spots, facts in {**new, **ready.paced}.items()]


def read(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, Any]]:
    """:attr:`Ready.paced` from what :func:`written` wrote."""
    return {tuple(row["spots"]): {k: v for k, v in row.items() if k != "spots"} for row in rows}


def _chosen(ready: Ready, teacher: Tapped, x: torch.Tensor, forwards: int) -> Sped:
    sped, fabric = Sped(teacher), ready.fabric
    with fabric.autocast():
        if fabric.is_global_zero:
            sped = speed_up(teacher, x, precision=speed_of(ready), forwards=forwards)  # type: ignore[arg-type]
        how = fabric.broadcast(sped.how)
        return sped if fabric.is_global_zero else Sped(replay(teacher, how, x), how)


def _words(sped: Sped) -> str:
    if not sped.how:
        return "as it was given: nothing made it faster"
    before, after = (1e3 * sped.seconds[name] for name in ("plain", sped.how[-1]))
    return (
        f"{', '.join(sped.how)}: {sped.ratio:.2f} of its time ({before:.3g} -> {after:.3g} ms a batch), "
        f"KL(T=4) to it {sped.kl:.1e}"
    )
