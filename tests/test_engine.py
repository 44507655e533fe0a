import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn

from potstill import engine
from potstill.checkpoint import load_state
from potstill.engine import backward, fit, split
from potstill.errors import DivergedError, InterruptedRun
from potstill.losses import Loss
from potstill.runs import Journal
from tests.engine_case import Digits, stage, weights


def cpu() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def untimed(journal: Journal) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in journal.rows()]


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    s, journal = stage(epochs=8), Journal(tmp_path / "m.jsonl")
    at = fit([s], cpu(), folder=tmp_path, journal=journal)
    rows = journal.rows()
    assert [r["epoch"] for r in rows] == list(range(1, 9))
    assert rows[-1]["step"] == 40 == at.total_steps
    assert rows[0]["train"]["links"].keys() == {"ce", "kd", "fitnet"}
    assert rows[-1]["train"]["loss"] == pytest.approx(sum(rows[-1]["train"]["links"].values()))
    assert rows[-1]["train"]["links"]["ce"] < 0.7 * rows[0]["train"]["links"]["ce"]
    assert rows[-1]["val"]["top1"] > 0.5
    best = max(rows, key=lambda r: r["val"]["top1"])
    assert at.best["epoch"] == best["epoch"]
    state = load_state(tmp_path / "best.json")
    assert state is not None
    assert state["epoch"] == best["epoch"]


def interrupted(tmp_path: Path, stops: list[int], **options: object) -> Tensor:
    """Stop after each of ``stops`` steps, each time with everything made anew, then run to the end."""
    journal = Journal(tmp_path / "m.jsonl")
    for n in [*stops, None]:
        made = [stage(**options, name="one"), stage(epochs=2, seed=5, name="two")]  # type: ignore[arg-type]
        torch.manual_seed(99 if n is None else n)  # whatever the state of the generators was, the checkpoint's counts
        count = [0]

        def stop(n: int | None = n, count: list[int] = count) -> bool:
            count[0] += 1
            return n is not None and count[0] == n

        if stops and n == stops[0]:
            torch.manual_seed(7)
        try:
            fit(made, cpu(), folder=tmp_path, journal=journal, should_stop=stop, save_every=1e9)
            assert n is None
        except InterruptedRun as error:
            assert "state is saved" in str(error)  # noqa: PT017
    return torch.cat([weights(s) for s in made])


def test_resuming_is_not_noticed(tmp_path: Path) -> None:
    torch.manual_seed(7)
    whole = [stage(name="one"), stage(epochs=2, seed=5, name="two")]
    torch.manual_seed(7)
    journal = Journal(tmp_path / "whole.jsonl")
    fit(whole, cpu(), journal=journal)
    expected = torch.cat([weights(s) for s in whole])
    # in an epoch, at its end, at the end of a stage, in the next stage, twice at the same place
    for i, stops in enumerate([[3], [5], [15], [17], [2, 3, 8, 1], [1, 1, 1]]):
        folder = tmp_path / str(i)
        folder.mkdir()
        assert torch.equal(interrupted(folder, stops), expected), stops
        assert untimed(Journal(folder / "m.jsonl")) == untimed(journal)


def test_without_the_random_state_resuming_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    whole = [stage(name="one"), stage(epochs=2, seed=5, name="two")]
    torch.manual_seed(7)
    fit(whole, cpu())
    monkeypatch.setattr("potstill.engine.set_rng_state", lambda state: None)
    assert not torch.equal(interrupted(tmp_path, [3]), torch.cat([weights(s) for s in whole]))


def test_accumulated_parts_give_the_gradient_of_the_whole_batch() -> None:
    grads, sums = [], []
    for parts in (1, 3, 50):
        s = stage(norm=False, dropout=0.0)
        fabric = cpu()
        net = fabric.setup_module(s.scheme)
        batch = next(s.stream.epoch(0))
        names, means = backward(fabric, net, batch, parts)
        grads.append(torch.cat([p.grad.flatten() for p in s.scheme.parameters()]))
        assert names == ["ce", "kd"]
        sums.append(means)
    torch.testing.assert_close(sums[0], sums[1])
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0], grads[2])


def test_split_keeps_all_fields() -> None:
    batch = next(Digits(size=7).epoch(0))._replace(targets=torch.rand(7, 10), progress=0.3)
    parts = split(batch, 3)
    assert [len(p.ids) for p in parts] == [3, 2, 2]
    assert torch.equal(torch.cat([p.targets for p in parts]), batch.targets)
    assert all(p.progress == 0.3 for p in parts)


def test_clipping_bounds_the_step() -> None:
    s = stage(epochs=1, norm=False, lr=1.0, clip=1e-3)
    s = replace(s, optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=1.0), scheduler=lambda o, n: None)
    before = weights(s)
    fit([s], cpu())
    assert (weights(s) - before).norm() <= 5 * 1e-3 * 1.001


class Breaks(Loss):
    """Not finite from the call number ``at`` on."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, s: Tensor, t: Tensor, batch: object = None) -> Tensor:
        self.calls += 1
        return s.mean(1) * (float("nan") if self.calls > self.at else 1.0)


def test_a_loss_that_is_not_finite_stops_before_the_step_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    s = stage(norm=False, dropout=0.0)
    s.scheme.links[1].loss = Breaks(7)
    with pytest.raises(DivergedError, match="loss 'kd' was not finite at step 8") as error:
        fit([s], cpu(), folder=tmp_path, save_steps=3)
    assert "losses.kd.weight" in str(error.value)
    assert torch.isfinite(weights(s)).all(), "the optimizer did not step with it"
    state = load_state(tmp_path / "last.json")
    assert state is not None
    assert state["position"]["total_steps"] == 6
    saved = torch.load(tmp_path / "nan.pt", weights_only=True)
    assert saved["step"] == 8
    assert saved["batch"][0].shape == (32, 1, 8, 8)


def test_steps_that_are_too_large_are_named_as_the_cause(tmp_path: Path) -> None:
    s = stage(norm=False)
    s.scheme.nets["student"].net[-1].weight.data.fill_(1e38)  # as after steps that were too large
    with pytest.raises(DivergedError, match="not finite") as error:
        fit([s], cpu(), folder=tmp_path)
    assert "optim.lr" in str(error.value)


def test_early_stop() -> None:
    s = stage(epochs=30, patience=2)
    values = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    rows: list[dict] = []
    at = fit([replace(s, validate=lambda: {"top1": next(values)})], cpu(), on_epoch=rows.append)
    assert len(rows) == 4
    assert at.best["epoch"] == 2


def test_progress_goes_from_zero_to_one() -> None:
    seen: list[float] = []

    class Sees(Loss):
        def forward(self, s: Tensor, t: Tensor, batch=None) -> Tensor:  # type: ignore[no-untyped-def]
            seen.append(batch.progress)
            return s.mean(1)

    s = stage(epochs=2, norm=False)
    s.scheme.links[1].loss = Sees()
    fit([s], cpu())
    assert seen == pytest.approx([i / 10 for i in range(10)])


def test_bfloat16_trains_close_to_float32() -> None:
    means = {}
    for precision in ("32-true", "bf16-mixed"):
        s, rows = stage(epochs=4, dropout=0.0), []
        fit([s], Fabric(accelerator="cpu", devices=1, precision=precision), on_epoch=rows.append)  # type: ignore[arg-type]
        means[precision] = rows[-1]["train"]["loss"]
    assert means["bf16-mixed"] == pytest.approx(means["32-true"], rel=0.1)
    assert means["bf16-mixed"] != means["32-true"]


def test_a_student_left_in_eval_mode_is_trained_in_train_mode() -> None:
    s = stage(epochs=1)
    s.scheme.eval()
    modes: list[bool] = []
    next(m for m in s.scheme.modules() if isinstance(m, nn.Dropout)).register_forward_hook(
        lambda m, a, o: modes.append(m.training)
    )
    fit([replace(s, validate=None)], cpu())
    assert modes == [True] * 5


def test_the_loss_is_the_mean_over_the_samples_of_the_epoch() -> None:
    s, rows = stage(epochs=1, dropout=0.0, norm=False, lr=1e-12, stream=Digits(n=100, size=40)), []
    fit([s], cpu(), on_epoch=rows.append)
    losses = [s.scheme(b) for b in s.stream.epoch(0)]
    expected = torch.cat([x["ce"] for x in losses]).mean().item()
    assert rows[0]["train"]["links"]["ce"] == pytest.approx(expected, rel=1e-4)
    assert math.isfinite(expected)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_without_fabrics_wrappers_a_step_is_the_same_to_the_bit(
    precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, got = stage(2, accumulate=2), stage(2, accumulate=2)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    assert engine.alone(fabric)
    called: list[type] = []
    monkeypatch.setattr(_FabricModule, "forward", lambda self, batch: called.append(type(self)))
    torch.manual_seed(5)  # of dropout
    fit([got], fabric)
    assert not called
    monkeypatch.undo()
    monkeypatch.setattr(engine, "alone", lambda fabric: False)
    torch.manual_seed(5)
    fit([wanted], fabric)
    assert torch.equal(weights(wanted), weights(got))
    scaling = MixedPrecision("bf16-mixed", "cpu")
    scaling.scaler = torch.amp.GradScaler("cpu")
    monkeypatch.undo()
    assert not engine.alone(Fabric(accelerator="cpu", devices=1, plugins=scaling))


def test_a_training_begins_with_a_scale_of_gradients_of_its_own() -> None:
    fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu"))
    precision = fabric.strategy.precision
    assert isinstance(precision, MixedPrecision)
    assert precision.scaler is not None
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)  # as one that has met many overflows
    fit([stage(epochs=1)], fabric)
    assert precision.scaler.get_scale() > 2
