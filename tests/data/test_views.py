"""Views: parity with a plain implementation, and (id, view) decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from potstill.data.views import ERASE_AREA, Views, to_float
from potstill.errors import ConfigError


def batch(n: int = 40, c: int = 3, h: int = 16, w: int = 20) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    pictures = torch.from_numpy(rng.integers(0, 256, (n, c, h, w), dtype=np.uint8))
    return pictures, torch.arange(n) * 3 + 1, torch.arange(n) % 5


@pytest.mark.parametrize(("pad", "flip"), [(0, True), (2, False), (3, True)])
@pytest.mark.parametrize("c", [1, 3, 4])
def test_crop_and_flip_equal_a_plain_implementation(pad: int, flip: bool, c: int) -> None:
    x, ids, v = batch(c=c)
    views = Views(pad=pad, flip=flip, seed=9)
    top, left, mirrored = views.geometry(ids, v)
    expected = []
    for picture, i, j, m in zip(x.numpy(), top.tolist(), left.tolist(), mirrored.tolist(), strict=True):
        padded = np.pad(picture, ((0, 0), (pad, pad), (pad, pad)))
        crop = padded[:, i : i + 16, j : j + 20]
        expected.append((crop[:, :, ::-1] if m else crop).astype(np.float32) / 255)
    assert torch.equal(views(x, ids, v), torch.from_numpy(np.stack(expected)))


def test_geometry_covers_every_view() -> None:
    ids = torch.arange(20_000)
    top, left, mirrored = Views(pad=2, flip=True).geometry(ids, ids * 0)
    counts = torch.bincount((top * 5 + left) * 2 + mirrored, minlength=50)
    assert len(counts) == 50
    assert ((counts - 400.0) ** 2 / 400).sum() < 100  # chi-squared with 49 degrees
    assert Views(pad=2).geometry(ids, ids)[2].sum() == 0


FULL = Views(pad=2, flip=True, colour=0.4, erase=0.5, seed=4)


def test_a_view_does_not_depend_on_the_batch() -> None:
    x, ids, v = batch()
    whole = FULL(x, ids, v)
    assert whole.dtype == torch.float32
    assert whole.min() >= 0
    assert whole.max() <= 1
    order = torch.randperm(len(x))
    assert torch.equal(FULL(x[order], ids[order], v[order]), whole[order])
    for i in (0, 7, 39):  # alone
        assert torch.equal(FULL(x[i : i + 1], ids[i : i + 1], v[i : i + 1])[0], whole[i])
    assert torch.equal(FULL(x, ids, v), whole)
    twice = FULL(x[[3, 3]], ids[[3, 3]], v[[3, 3]])
    assert torch.equal(twice[0], twice[1])


def test_seed_id_and_view_all_count() -> None:
    x, ids, v = batch()
    whole = FULL(x, ids, v)
    for other in (
        FULL(x, ids + 1, v),
        FULL(x, ids, v + 1),
        Views(pad=2, flip=True, colour=0.4, erase=0.5, seed=5)(x, ids, v),
    ):
        assert (other != whole).flatten(1).any(1).float().mean() > 0.95


def test_float_pictures() -> None:
    x, ids, v = batch()
    views = Views(pad=2, flip=True, colour=0.3, erase=0.5)
    assert torch.allclose(views(x.float() / 255, ids, v), views(x, ids, v), atol=1e-7)
    assert views(x.double() / 255, ids, v).dtype == torch.float32


def test_nothing_asked_gives_the_picture_as_it_is() -> None:
    x, ids, v = batch()
    assert torch.equal(Views()(x, ids, v), x.float() / 255)
    assert torch.equal(to_float(x), x.float() / 255)


def test_inputs_are_not_changed() -> None:
    x, ids, v = batch()
    copies = x.clone(), ids.clone(), v.clone()
    f = x.float() / 255
    g = f.clone()
    FULL(x, ids, v)
    FULL(f, ids, v)
    assert all(map(torch.equal, (x, ids, v, f), (*copies, g)))


def test_erasing_takes_a_box_of_the_published_size_with_the_given_probability() -> None:
    n = 2000
    x, ids = torch.full((n, 1, 20, 20), 255, dtype=torch.uint8), torch.arange(n)
    y = Views(erase=0.25)(x, ids, ids * 0)
    hole = y[:, 0] == 0
    hit = hole.flatten(1).any(1)
    assert hit.float().mean().item() == pytest.approx(0.25, abs=0.03)
    rows, columns = hole.any(2).sum(1)[hit], hole.any(1).sum(1)[hit]
    area = hole.flatten(1).sum(1)[hit]
    assert torch.equal(area, rows * columns)  # one box
    share = area / 400
    assert share.min() > ERASE_AREA[0] / 3
    assert share.max() < ERASE_AREA[1] + 0.05
    assert share.mean().item() == pytest.approx(0.172, abs=0.02)  # the mean of U(0.02, 0.33), a little less at the rim
    assert (rows > columns).float().mean().item() == pytest.approx(0.46, abs=0.06)  # log-uniform ratio, ties apart
    assert hole[hit].any(0).all()  # every pixel can be hit
    assert (Views(erase=1.0)(x, ids, ids * 0) == 0).flatten(1).any(1).all()


def test_colour_equals_a_plain_implementation() -> None:
    x, ids, v = batch()
    views = Views(colour=0.5, seed=2)
    got = views(x, ids, v)
    from potstill.data import counter

    factors = 0.5 + counter.unit(counter.bits(2, ids, v, ("brightness", "contrast", "saturation"))).T.double()
    luma = np.array([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    for picture, (b, c, s), ours in zip(x.double().numpy() / 255, factors.numpy(), got, strict=True):
        p = np.clip(picture * b, 0, 1)
        p = np.clip((p * luma).sum(0).mean() * (1 - c) + p * c, 0, 1)
        p = np.clip((p * luma).sum(0) * (1 - s) + p * s, 0, 1)
        assert np.abs(p - ours.numpy()).max() < 1e-6
    grey = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    assert views(grey, ids[:4], v[:4]).isfinite().all()


def blended(views: Views, n: int = 64, classes: int = 4) -> tuple[torch.Tensor, ...]:
    x, ids, v = batch(n, c=1)
    x = to_float(x)
    y = torch.arange(n) % classes
    return x, y, ids, v, *views.blend(x, y, ids, v, classes)


def test_mixup_blends_pictures_and_labels_by_one_share() -> None:
    x, y, _, _, z, t = blended(Views(mixup=1.0))
    share = t[torch.arange(64), y]
    assert torch.allclose(t.sum(1), torch.ones(64))
    assert torch.allclose(
        z, share[:, None, None, None] * x + (1 - share)[:, None, None, None] * x.roll(1, 0), atol=1e-6
    )
    assert share.std() > 0.15  # each sample has its own


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_shares_are_beta_distributed(alpha: float) -> None:
    from scipy.stats import beta, kstest

    n = 4000
    x, y, ids = torch.zeros(n, 1, 1, 1), torch.arange(n) % 2, torch.arange(n)
    _, t = Views(mixup=alpha).blend(x, y, ids, ids * 0, 2)
    assert kstest(t[torch.arange(n), y].numpy(), beta(alpha, alpha).cdf).pvalue > 0.01


def test_cutmix_pastes_a_box_and_shares_labels_by_its_area() -> None:
    x, y, _, _, z, t = blended(Views(cutmix=1.0))
    own, other = (z == x)[:, 0], (z == x.roll(1, 0))[:, 0]
    assert (own | other).all()
    pasted = ~own
    share = 1 - pasted.flatten(1).float().mean(1)
    assert torch.allclose(t[torch.arange(64), y], share, atol=0.03)  # a few pixels are equal by chance
    assert torch.allclose(t.sum(1), torch.ones(64))
    assert share.min() < 0.3
    assert share.max() > 0.9
    n = 4000
    a = torch.zeros(n, 1, 32, 32)
    a[1::2] = 1
    ids = torch.arange(n)
    z, t = Views(cutmix=1.0).blend(a, torch.arange(n) % 2, ids, ids * 0, 2)
    assert torch.allclose(t[:, 1], z.mean((1, 2, 3)), atol=1e-5)


def test_mixup_and_cutmix_share_the_samples() -> None:
    x, _, _, _, z, _ = blended(Views(mixup=1.0, cutmix=1.0), n=400)
    cut = ((z == x) | (z == x.roll(1, 0))).flatten(1).all(1)
    assert 0.4 < cut.float().mean() < 0.6


def test_blend_is_a_function_of_the_batch() -> None:
    views = Views(mixup=0.4, cutmix=1.0, seed=3)
    torch.manual_seed(0)
    first = blended(views)
    torch.manual_seed(1)
    assert all(map(torch.equal, first, blended(views)))
    assert not torch.equal(first[4], blended(Views(mixup=0.4, cutmix=1.0, seed=4))[4])


def test_a_sample_without_a_label_adds_nothing_to_the_targets() -> None:
    x, ids, v = batch(4, c=1)
    y = torch.tensor([0, -1, 1, -1])
    _, t = Views(mixup=1.0).blend(to_float(x), y, ids, v, 3)
    _, full = Views(mixup=1.0).blend(to_float(x), torch.tensor([0, 2, 1, 2]), ids, v, 3)
    assert torch.equal(t[:, :2], full[:, :2])
    assert (t[:, 2] == 0).all()
    assert (t.sum(1) < 1).all()


def test_one_picture_is_blended_with_itself() -> None:
    x, ids, v = batch(1)
    z, t = Views(mixup=1.0).blend(to_float(x), torch.tensor([2]), ids, v, 3)
    assert torch.allclose(z, to_float(x))
    assert torch.allclose(t, torch.tensor([[0.0, 0.0, 1.0]]))


def test_auto() -> None:
    assert Views.auto("digits", (1, 8, 8)) == Views(pad=1)
    assert Views.auto("parquet:x", (3, 32, 32)) == Views(pad=4, flip=True)
    assert Views.auto("folder:x", (3, 224, 224), flip=False, seed=3) == Views(pad=28, seed=3)


@pytest.mark.parametrize("wrong", [{"pad": -1}, {"colour": -0.1}, {"erase": 1.1}, {"mixup": -1.0}, {"cutmix": -1.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Views(**wrong)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_views() -> None:
    x, ids, v = batch(256)
    moved = Views(pad=2, flip=True, erase=0.5)
    assert torch.equal(moved(x.cuda(), ids.cuda(), v.cuda()).cpu(), moved(x, ids, v))
    assert torch.allclose(FULL(x.cuda(), ids.cuda(), v.cuda()).cpu(), FULL(x, ids, v), atol=1e-5)
    blend = Views(mixup=0.4, cutmix=1.0)
    y = torch.arange(256) % 5
    here, there = (
        blend.blend(to_float(x), y, ids, v, 5),
        blend.blend(to_float(x).cuda(), y.cuda(), ids.cuda(), v.cuda(), 5),
    )
    assert all(torch.allclose(a, b.cpu(), atol=1e-5) for a, b in zip(here, there, strict=True))
