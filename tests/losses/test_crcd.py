import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from potstill.errors import ModelError
from potstill.losses import CRCD
from potstill.types import Batch

CLASSES, N, B, K, TAU = 4, 30, 5, 6, 0.5


def seen(ids, y=None, targets=None):
    return Batch(torch.zeros(len(ids), 1), ids % CLASSES if y is None else y, ids, torch.zeros_like(ids), targets)


def heads(s=6, t=9):
    torch.manual_seed(9)
    return {"s_head": nn.Linear(s, CLASSES), "t_head": nn.Linear(t, CLASSES)}


def contrast(z, bank, ids, index, constant):
    """One side in float64 with loops, the formula as it stands; a relation of a sample to itself is left out."""
    rows = []
    cosines = torch.zeros(len(ids), len(ids), index.shape[1], dtype=torch.float64)
    for b in range(len(ids)):
        for j, anchor in enumerate(bank[ids]):
            for k, i in enumerate(index[b]):
                r, m = z[b] - anchor, bank[i] - anchor
                if i != ids[j] and min(r.norm(), m.norm()) > 1e-3:  # else a relation without direction
                    cosines[b, j, k] = (r @ m) / (r.norm() * m.norm())
    h = torch.exp(cosines / TAU)
    constant = h.mean().detach() * len(bank) if constant is None else constant
    h, c = h / constant, (index.shape[1] - 1) / len(bank)
    for b in range(len(ids)):
        parts = []
        for j in range(len(ids)):
            if index[b, 0] == ids[j]:
                continue
            part = -torch.log(h[b, j, 0] / (h[b, j, 0] + c + 1e-7))
            for k in range(1, index.shape[1]):
                if index[b, k] == ids[j]:  # nothing but its constant
                    part = part - torch.log(torch.tensor(c / (c + 1e-7), dtype=torch.float64))
                else:
                    part = part - torch.log(c / (h[b, j, k] + c + 1e-7))
            parts.append(part)
        rows.append(torch.stack(parts).mean())
    return torch.stack(rows), constant


def test_value_gradient_and_memory_over_steps_by_hand():
    torch.manual_seed(0)
    loss = CRCD((6,), (9,), N, gradient="none", dim=8, negatives=K, temperature=TAU)
    memory = loss.features.memory
    m_s, m_t = memory.student.double(), memory.teacher.double()
    constants = [None, None]
    for _ in range(3):
        ids = torch.randperm(N)[:B]
        index = torch.cat([ids[:, None], torch.randint(N, (B, K))], 1)
        index[0, 2] = ids[3]  # a negative that is an anchor
        s, t = torch.randn(B, 6, requires_grad=True), torch.randn(B, 9)
        z_s, z_t = (
            F.normalize(e.map(x).double(), dim=1) for e, x in ((loss.features.embed_s, s), (loss.features.embed_t, t))
        )
        of_s, constants[0] = contrast(z_s, m_t, ids, index, constants[0])
        of_t, constants[1] = contrast(z_t, m_s, ids, index, constants[1])
        expected = of_s + of_t
        (slope,) = torch.autograd.grad(expected.mean(), s)
        rows = loss(s, t, seen(ids), index)
        torch.testing.assert_close(rows.double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.autograd.grad(rows.mean(), s)[0], slope, rtol=1e-3, atol=1e-4)
        with torch.no_grad():
            for z, m in ((z_s, m_s), (z_t, m_t)):
                m[ids] = F.normalize(0.5 * m[ids] + 0.5 * z, dim=1)
        torch.testing.assert_close(memory.student.double(), m_s, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(memory.teacher.double(), m_t, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(memory.log_z.double(), torch.stack(constants).log(), rtol=1e-5, atol=1e-5)


def autograd_slopes(v, head, y):
    v = v.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(head(v), y, reduction="sum", ignore_index=-1), v)[0]


def test_the_gradient_element_is_the_gradient_of_cross_entropy():
    torch.manual_seed(0)
    h = heads(6, 6)
    s, t, ids = torch.randn(B, 6), torch.randn(B, 6), torch.arange(B)
    y = torch.tensor([0, 1, 2, 3, -1])  # the last has no label
    index = torch.cat([ids[:, None], torch.randint(B, N, (B, K))], 1)
    plain = CRCD((6,), (6,), N, gradient="none", negatives=K)
    cosine = CRCD((6,), (6,), N, **h, gradient="cosine", gradient_weight=0.5, negatives=K)
    cosine.load_state_dict(plain.state_dict(), strict=False)
    g_s, g_t = autograd_slopes(s, h["s_head"], y), autograd_slopes(t, h["t_head"], y)
    expected = 10 * (1 - F.cosine_similarity(g_s, g_t))
    added = cosine(s, t, seen(ids, y), index) - plain(s, t, seen(ids, y), index)
    torch.testing.assert_close(added, 0.5 * expected, rtol=1e-4, atol=1e-4)

    relation = CRCD((6,), (6,), N, **h, negatives=K)
    relation.load_state_dict(plain.state_dict(), strict=False)
    alone = CRCD((6,), (6,), N, gradient="none", negatives=K)
    alone.features.load_state_dict(relation.gradients.state_dict())
    plain.load_state_dict(relation.state_dict(), strict=False)
    total = relation(s, t, seen(ids, y), index)
    parts = plain(s, t, seen(ids, y), index) + alone(g_s, g_t, seen(ids, y), index)
    torch.testing.assert_close(total, parts, rtol=1e-4, atol=1e-4)


def test_the_live_head_learns_and_is_not_ours():
    h = heads()
    loss = CRCD((6,), (9,), N, torch.arange(N) % CLASSES, **h, negatives=K)
    loss(torch.randn(B, 6), torch.randn(B, 9), seen(torch.arange(B))).mean().backward()
    assert h["s_head"].weight.grad.abs().sum() > 0
    assert h["t_head"].weight.grad is None
    assert not any(p is h["s_head"].weight for p in loss.parameters())
    assert not any("ours" in key for key in loss.state_dict())
    assert {"features.memory.teacher", "gradients.memory.student", "theirs.weight"} <= set(loss.state_dict())


def test_blended_labels_are_the_target_of_the_gradient():
    h = heads(6, 6)
    ids, y = torch.arange(B), torch.arange(B) % CLASSES
    loss = CRCD((6,), (6,), N, **h, gradient="cosine", negatives=K).eval()
    s, t = torch.randn(B, 6), torch.randn(B, 6)
    index = torch.cat([ids[:, None], torch.randint(B, N, (B, K))], 1)
    hard = loss(s, t, seen(ids, y), index)
    torch.testing.assert_close(loss(s, t, seen(ids, y, F.one_hot(y, CLASSES).float()), index), hard)
    assert not torch.allclose(loss(s, t, seen(ids, y, torch.full((B, CLASSES), 0.25)), index), hard)


def test_refusals():
    with pytest.raises(ModelError, match="linear"):
        CRCD((6,), (9,), N)
    with pytest.raises(ModelError, match=r"9 features(.|\n)*reads 6"):
        CRCD((6,), (9,), N, **heads(6, 6))
    with pytest.raises(ModelError, match=r"cosine(.|\n)*relation"):
        CRCD((6,), (9,), N, **heads(), gradient="cosine")
    with pytest.raises(ModelError, match="one class"):
        CRCD((6,), (9,), N, torch.zeros(N), gradient="none")


def test_maps_are_averaged():
    torch.manual_seed(0)
    loss = CRCD((6, 2, 2), (9, 3, 3), N, dim=8, negatives=K, temperature=TAU, **heads())
    same = copy.deepcopy(loss)
    ids = torch.randperm(N)[:B]
    index = torch.cat([ids[:, None], torch.randint(N, (B, K))], 1)
    s, t = torch.randn(B, 6, 2, 2), torch.randn(B, 9, 3, 3)
    whole = loss(s, t, seen(ids), index)
    torch.testing.assert_close(whole, same(s.mean((2, 3)), t.mean((2, 3)), seen(ids), index), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", ["relation", "cosine"])
def test_the_weight_of_the_gradient_element(gradient):
    torch.manual_seed(0)
    ids = torch.randperm(N)[:B]
    index = torch.cat([ids[:, None], torch.randint(N, (B, K))], 1)
    s, t, found = torch.randn(B, 6), torch.randn(B, 6), []
    for weight in (0.0, 1.0, 3.0):
        torch.manual_seed(1)
        settings = {"gradient": gradient, "gradient_weight": weight, "dim": 8, "negatives": K, "temperature": TAU}
        found.append(CRCD((6,), (6,), N, **settings, **heads(6, 6))(s, t, seen(ids), index))
    torch.testing.assert_close(found[2] - found[0], 3 * (found[1] - found[0]), rtol=1e-4, atol=1e-5)
    assert (found[1] - found[0]).abs().min() > 1e-3


def test_gradients_of_the_labels_loss_are_float32_under_autocast():
    torch.manual_seed(0)
    ids = torch.randperm(N)[:B]
    index = torch.cat([ids[:, None], torch.randint(N, (B, K))], 1)
    s, t, found = torch.randn(B, 6), torch.randn(B, 6), []
    for gradient in ("none", "cosine"):
        torch.manual_seed(1)
        loss = CRCD((6,), (6,), N, gradient=gradient, dim=8, negatives=K, temperature=TAU, **heads(6, 6))
        with torch.autocast("cpu", torch.bfloat16):
            found.append(loss(s, t, seen(ids), index))
    g = [_slope(v, head, ids % CLASSES) for v, head in zip((s, t), heads(6, 6).values(), strict=True)]
    expected = 10 * (1 - F.cosine_similarity(*g))
    torch.testing.assert_close(found[1] - found[0], expected, rtol=1e-4, atol=1e-4)


def _slope(v, head, y):
    v = v.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(head(v), y, reduction="sum"), v)[0]


def relations(num_samples, dim):
    torch.manual_seed(0)
    part = CRCD((6,), (9,), num_samples, gradient="none", dim=dim, negatives=K, temperature=TAU).features
    return part, part.memory.teacher


def check_side(part, z, ids, index):
    rows = part.side(z, "teacher", ids, index)
    expected, _ = contrast(z.double(), part.memory.teacher.double(), ids, index, None)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-5, atol=1e-5)
    return rows


def test_under_autocast_relations_are_float32_and_any_length_of_a_vector_is_read():
    part, _ = relations(N, 8)
    ids = torch.arange(B)
    index = torch.cat([ids[:, None], torch.randint(B, N, (B, K))], 1)
    z = F.normalize(torch.randn(B, 8), dim=1) * torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0])[:, None]
    check_side(part, z, ids, index)
    with torch.autocast("cpu", torch.bfloat16):
        check_side(part, z, ids, index)


def test_a_batch_of_two_and_noise_as_rare_as_epsilon():
    part, _ = relations(100_000, 2)
    ids = torch.arange(2)
    index = torch.tensor([[0, 5, 6, 7], [1, 8, 9, 10]])
    check_side(part, F.normalize(torch.randn(2, 2), dim=1), ids, index)


def test_relations_that_are_zero_but_for_rounding_have_no_direction():
    n, d = 16, 64
    part, bank = relations(n + 8, d)
    bank.copy_(F.normalize(bank, dim=1))
    ids = torch.arange(n)
    index = torch.cat([ids[:, None], torch.randint(n, n + 8, (n, K))], 1)
    z = (
        bank[:n].clone().requires_grad_()
    )  # each sample says what it said before: where the anchor is, nothing is between
    steep = torch.autograd.grad(check_side(part, z.roll(1, 0), ids, index).sum(), z)[0]
    assert steep.abs().max() < 1
    part, bank = relations(n + 8, d)
    bank.copy_(bank[:1] + 1e-8 * torch.randn_like(bank))  # everything that is remembered is at one place
    check_side(part, F.normalize(torch.randn(n, d), dim=1), ids, index)
