import torch
import torch.nn.functional as F

from potstill.losses import SemCKD

S, T = [(3, 8, 8), (5, 4, 4)], [(4, 4, 4), (6, 4, 4), (7, 2, 2)]


def maps(shapes, n=4):
    return [torch.randn(n, *shape) for shape in shapes]


def test_by_hand():
    torch.manual_seed(0)
    loss = SemCKD(S, T, dim=5, softness=0.5)
    s, t = maps(S), maps(T)
    loss(s, t)
    loss.eval()
    expected = torch.zeros(4, dtype=torch.float64)
    for i in range(2):
        q = loss.queries[i](s[i].mean((2, 3))).double()
        scores, distances = [], []
        for j in range(3):
            k = loss.keys[j](t[j].mean((2, 3))).double()
            scores.append(F.cosine_similarity(q, k) / 0.5)
            size = min(S[i][1], T[j][1])
            f, g = F.adaptive_avg_pool2d(s[i], size), F.adaptive_avg_pool2d(t[j], size)
            projected = loss.projectors[i * 3 + j](f).double()
            distances.append(((projected - g) ** 2).mean((1, 2, 3)))
        expected += (torch.stack(scores, 1).softmax(1) * torch.stack(distances, 1)).sum(1)
    torch.testing.assert_close(loss(s, t).double(), expected / 2, rtol=1e-4, atol=1e-6)


def test_a_sample_is_judged_alone_whatever_the_batch():
    torch.manual_seed(0)
    loss = SemCKD(S, T).eval()
    s, t = maps(S, 7), maps(T, 7)
    rows = loss(s, t)
    for n in (1, 3):
        torch.testing.assert_close(loss([f[:n] for f in s], [g[:n] for g in t]), rows[:n])
    torch.testing.assert_close(loss([f.flip(0) for f in s], [g.flip(0) for g in t]), rows.flip(0))


def test_projectors_have_the_published_form():
    kernels = [tuple(m.weight.shape) for m in SemCKD(S, T).projectors[1] if isinstance(m, torch.nn.Conv2d)]
    assert kernels == [(12, 3, 1, 1), (12, 12, 3, 3), (6, 12, 1, 1)]


def test_under_autocast_likeness_is_float32():
    torch.manual_seed(0)
    loss = SemCKD(S, T)
    s, t = maps(S), maps(T)
    with torch.autocast("cpu", torch.bfloat16):
        weight = loss.weight(s, t)
        q = torch.stack([embed(f.mean((2, 3))) for embed, f in zip(loss.queries, s, strict=True)], 1).double()
        k = torch.stack([embed(g.mean((2, 3))) for embed, g in zip(loss.keys, t, strict=True)], 1).double()
    expected = F.cosine_similarity(q[:, :, None], k[:, None], dim=3).softmax(2)
    torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-6)
