"""Who is in which split, and what is odd about it."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from potstill.data.arrays import Data
from potstill.errors import ConfigError, DataError

D = TypeVar("D", bound=Data)


def stratified(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random order in which every beginning has the classes in nearly the proportions of the whole, (N,).

    A sample's place is the share of its class that comes before it, (rank + 1/2) / n, with random ranks and random ties.
    So a class's count in the first k is within 1 of k n / N, and the only picture of a class lies in the middle.
    """
    rng = np.random.RandomState(
        seed % 2**32
    )  # its stream is frozen for good; that of default_rng may change with numpy
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, count = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(first, count)
    place = (rank + 0.5) / np.repeat(count, count)
    return by_class[np.lexsort((rng.permutation(len(labels)), place))]


def divide(parts: dict[str, D], val: float, test: float, seed: int) -> tuple[D, D, D, str, list[str]]:
    """Train, val and test of what a source has; how it was split, in words; notices.

    Args:
        parts: by name, ``train`` and perhaps ``val`` and ``test``; or ``all``, which is cut in three.
        val: share of the source's training pictures (of all, where it is cut in three) that become validation data.
        test: share of ``all`` that becomes test data.
        seed: of the cut.
    """
    for name, part in parts.items():
        if not len(part):
            raise DataError(f"no pictures in the {name} data")
    whole = parts.get("all", parts.get("train"))
    assert whole is not None  # every source has one of them
    order = stratified(whole.labels, seed)
    n_test = max(1, round(len(whole) * test)) if "all" in parts else 0
    n_val = max(1, round(len(whole) * val)) if "val" not in parts else 0
    if n_test + n_val >= len(whole):
        raise DataError(
            f"{len(whole)} pictures are too few to be split into training, validation and test data",
            hint=f"{n_test + n_val + 1} or more",
        )
    cuts = np.split(order, [n_test, n_test + n_val])
    train = whole.subset(np.sort(cuts[2]))
    validation = parts["val"] if "val" in parts else whole.subset(np.sort(cuts[1]))
    if "all" in parts:
        words = f"stratified {1 - val - test:.0%} / {val:.0%} / {test:.0%} (train / val / test), seed {seed}"
        return train, validation, whole.subset(np.sort(cuts[0])), words, []
    words = "as the source has it"
    if n_val:
        words = f"{'test as the source has it; ' if 'test' in parts else ''}val is a stratified {val:.0%} of train, seed {seed}"
    if "test" in parts:
        return train, validation, parts["test"], words, []
    return (
        train,
        validation,
        validation,
        words,
        ["no test data: results on test are those on val, which choose the best epoch"],
    )


def thin(train: D, labels: int | None, limit: int | None, seed: int) -> tuple[D, list[str]]:
    """Keep ``limit`` training pictures, and the labels of ``labels`` of them; fewer are always a part of more.

    Raises:
        ConfigError: more than there are.
    """
    notices = []
    for name, asked, have in (
        ("limit", limit, len(train)),
        ("labels", labels, min(len(train.labelled()), limit or len(train))),
    ):
        if asked is not None and not 0 < asked <= have:
            raise ConfigError(
                f"{name} must be between 1 and {have}, the training pictures there are; got {asked}",
                where=f"data.{name}",
            )
    if limit is not None:
        train = train.subset(np.sort(stratified(train.labels, seed)[:limit]))
    if labels is not None:
        known = np.flatnonzero(train.labels >= 0)
        keep = known[stratified(train.labels[known], seed)[:labels]]
        kept = np.full(len(train), -1)
        kept[keep] = train.labels[keep]
        train = train.relabelled(kept)
        notices.append(f"labels of {labels} of {len(train)} training pictures are used, the others are hidden")
    return train, notices


def odd_classes(train: Data, classes: list[str]) -> list[str]:
    """Notices on classes with few pictures.

    Raises:
        DataError: fewer than two classes.
    """
    counts = np.bincount(train.labels[train.labels >= 0], minlength=len(classes))
    if len(classes) < 2 or (counts > 0).sum() < 2:
        names = [c for c, n in zip(classes, counts, strict=True) if n]
        raise DataError(
            f"training needs two classes or more, found {f'only {names[0]!r}' if names else 'none'}",
            hint="one folder (or label) a class",
        )
    notices = []
    for few, what in (0, "no training picture with a label"), (1, "only one training picture with a label"):
        if names := [c for c, n in zip(classes, counts, strict=True) if n == few]:
            notices.append(
                f"{len(names)} class(es) with {what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            )
    return notices


def overlap(train: Data, other: Data, digests: np.ndarray, what: str, strict: bool) -> list[str]:
    """Notices on pictures of ``other`` that training has too, pixel by pixel.

    Args:
        digests: by row of the store that both share.
        strict: raise instead.

    Raises:
        DataError: there are some and ``strict``.
    """
    ours, theirs = digests[train.rows], digests[other.rows]
    order = np.argsort(ours, kind="stable")
    candidates = np.flatnonzero(np.isin(theirs, ours))
    twins = order[np.searchsorted(ours[order], theirs[candidates])]
    same = [
        (i, j)
        for i, j in zip(candidates.tolist(), twins.tolist(), strict=True)
        if np.array_equal(other.pictures([i]), train.pictures([j]))
    ]
    if not same:
        return []
    names = ", ".join(f"{other.name(i)} = {train.name(j)}" for i, j in same[:3])
    text = f"{len(same)} of {len(other)} {what} pictures are training pictures too: {names}{' ...' if len(same) > 3 else ''}"
    if strict:
        raise DataError(text, hint="take them out of one of the folders, or leave out --strict")
    return [f"{text}; they flatter the results"]
