"""Who is in which split."""

from __future__ import annotations

import numpy as np
import pytest

from potstill.data.arrays import ArrayData
from potstill.data.split import divide, odd_classes, overlap, stratified, thin
from potstill.errors import ConfigError, DataError


def data(labels: np.ndarray, seed: int = 0) -> ArrayData:
    x = np.random.default_rng(seed).integers(0, 256, (len(labels), 1, 4, 4), dtype=np.uint8)
    return ArrayData(x, labels)


def long_tail() -> np.ndarray:
    return np.random.default_rng(1).permutation(np.repeat(np.arange(5), [400, 200, 100, 10, 1]))


def test_every_beginning_of_the_order_has_the_proportions_of_the_whole() -> None:
    y = long_tail()
    order = stratified(y, 3)
    assert sorted(order) == list(range(len(y)))
    for c in range(5):
        seen = np.cumsum(y[order] == c)
        expected = (np.arange(len(y)) + 1) * (y == c).mean()
        assert np.abs(seen - expected).max() <= 1.5


def test_the_order_is_random_and_seeded() -> None:
    y = np.arange(1000) % 10
    a = stratified(y, 0)
    assert np.array_equal(a, stratified(y, 0))
    assert (a == stratified(y, 1)).mean() < 0.05
    within = a[y[a] == 0]
    assert abs(np.corrcoef(within, np.arange(100))[0, 1]) < 0.3  # not in the order of the source
    assert a[:20].tolist() != sorted(a[:20])
    assert sorted(y[a[:10]].tolist()) == list(range(10))


def test_no_class_is_favoured() -> None:
    """A cut that does not share evenly gives its surplus to other classes with another seed."""
    y = np.arange(1000) % 10
    surplus = np.stack([np.bincount(y[stratified(y, seed)[:25]], minlength=10) for seed in range(60)])
    assert surplus.min() == 2
    assert surplus.max() == 3
    assert (surplus == 3).sum(0).min() > 15
    assert (surplus == 3).sum(0).max() < 45


def test_the_only_picture_of_a_class_is_trained_on() -> None:
    y = np.concatenate((np.zeros(50, int), [1], [2, 2]))
    for seed in range(20):
        train, *_ = divide({"all": data(y)}, 0.1, 0.1, seed)
        assert 1 in train.labels
        assert 2 in train.labels


def test_three_way_cut() -> None:
    y = long_tail()
    train, val, test, words, notices = divide({"all": data(y)}, 0.1, 0.3, 0)
    assert (len(train), len(val), len(test)) == (427, 71, 213)
    assert sorted(np.concatenate((train.ids, val.ids, test.ids))) == list(range(len(y)))
    assert words == "stratified 60% / 10% / 30% (train / val / test), seed 0"
    assert notices == []
    for part, share in (train, 0.6), (val, 0.1), (test, 0.3):
        assert abs((part.labels == 0).sum() - 400 * share) <= 2


def test_val_comes_out_of_train() -> None:
    y = np.arange(100) % 4
    train, val, test, words, _ = divide({"train": data(y), "test": data(y[:20])}, 0.2, 0.1, 0)
    assert (len(train), len(val), len(test)) == (80, 20, 20)
    assert np.bincount(val.labels).tolist() == [5, 5, 5, 5]
    assert "20% of train" in words


def test_without_test_data_val_is_test_and_it_is_said() -> None:
    y = np.arange(40) % 4
    train, val, test, _, notices = divide({"train": data(y), "val": data(y[:8])}, 0.1, 0.1, 0)
    assert test is val
    assert len(train) == 40
    assert "no test data" in notices[0]


def test_too_few() -> None:
    with pytest.raises(DataError, match="too few"):
        divide({"all": data(np.array([0, 1]))}, 0.1, 0.1, 0)
    with pytest.raises(DataError, match="no pictures in the val"):
        divide({"train": data(np.arange(4)), "val": data(np.arange(0))}, 0.1, 0.1, 0)


def test_limit_and_labels() -> None:
    d = data(np.arange(1000) % 10)
    some, _ = thin(d, None, 100, 0)
    assert np.bincount(some.labels).tolist() == [10] * 10
    few, notices = thin(d, 30, 500, 0)
    assert len(few) == 500
    assert np.bincount(few.labels[few.labels >= 0]).tolist() == [3] * 10
    assert "30 of 500" in notices[0]
    true = dict(zip(d.ids.tolist(), d.labels.tolist(), strict=True))
    kept = few.labelled()
    assert [true[i] for i in kept.ids.tolist()] == kept.labels.tolist()
    more, _ = thin(d, 60, 500, 0)
    assert {*kept.ids.tolist()} < {*more.labelled().ids.tolist()}
    other, _ = thin(d, 30, 500, 1)
    assert {*kept.ids.tolist()} != {*other.labelled().ids.tolist()}
    assert (d.labels >= 0).all()


def test_thin_refuses_more_than_there_are() -> None:
    d = data(np.arange(20) % 2)
    for asked in ({"limit": 21}, {"limit": 0}, {"labels": 21}, {"labels": -1}):
        with pytest.raises(ConfigError, match="between 1 and 20"):
            thin(d, asked.get("labels"), asked.get("limit"), 0)
    with pytest.raises(ConfigError, match="between 1 and 10"):
        thin(d, 11, 10, 0)


def test_odd_classes() -> None:
    assert odd_classes(data(np.arange(20) % 4), list("abcd")) == []
    notices = odd_classes(data(np.array([0, 0, 1, 1, 3])), list("abcd"))
    assert notices == [
        "1 class(es) with no training picture with a label: c",
        "1 class(es) with only one training picture with a label: d",
    ]
    with pytest.raises(DataError, match="only 'b'"):
        odd_classes(data(np.array([1, 1, 1])), list("abc"))
    with pytest.raises(DataError, match="none"):
        odd_classes(data(np.array([-1, -1])), list("ab"))


def test_overlap() -> None:
    d = data(np.arange(20) % 2)
    d.store[15] = d.store[3]
    d.store[16] = d.store[4]
    digests = np.arange(20, dtype=np.uint64)
    digests[[15, 16]] = digests[[3, 4]]
    digests[17] = digests[5]  # a collision: equal digests of different pictures
    train, test = d.subset(np.arange(10)), d.subset(np.arange(10, 20))
    (notice,) = overlap(train, test, digests, "test", False)
    assert notice.startswith("2 of 10 test pictures are training pictures too: #15 = #3, #16 = #4")
    with pytest.raises(DataError, match="2 of 10"):
        overlap(train, test, digests, "test", True)
    assert overlap(train, d.subset([18, 19]), digests, "test", True) == []
