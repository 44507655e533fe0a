import torch
import torch.nn.functional as F

from potstill.losses import AFD

S, T = [(3, 8, 8), (5, 4, 4), (7, 2, 2)], [(4, 8, 8), (6, 2, 2)]


def maps(shapes, n=4):
    return [torch.randn(n, *shape) for shape in shapes]


def test_by_hand():
    """Each sample, teacher map and student map on its own, in float64, in eval mode."""
    torch.manual_seed(0)
    loss = AFD(S, T, dim=6)
    s, t = maps(S), maps(T)
    loss(s, t)
    loss.eval()
    keys = [loss.keys[j](s[j].mean((2, 3))).double() for j in range(3)]
    queries = [loss.queries[i](t[i].mean((2, 3))).double() for i in range(2)]
    expected = []
    for b in range(4):
        total = 0
        for i in range(2):
            scores, distances = [], []
            for j in range(3):
                key = loss.bilinear(keys[j].float()).double()[b].view(2, 6)[i]
                scores.append((key @ queries[i][b] + loss.places_t[i].double() @ loss.places_s[j].double()) / 6**0.5)
                ours = F.adaptive_avg_pool2d((s[j][b].double() ** 2).mean(0, keepdim=True), T[i][1:]).flatten()
                theirs = (t[i][b].double() ** 2).mean(0).flatten()
                distances.append(((ours / ours.norm() - theirs / theirs.norm()) ** 2).mean())
            total = total + (torch.stack(scores).softmax(0) * torch.stack(distances)).sum()
        expected.append(total)
    torch.testing.assert_close(loss(s, t).double(), torch.stack(expected), rtol=1e-4, atol=1e-7)


def test_the_weights_of_a_teacher_map_sum_to_one_over_the_student():
    loss = AFD(S, T, dim=6)
    weight = loss.weight(maps(S), [g.mean((2, 3)) for g in maps(T)])
    assert weight.shape == (4, 2, 3)
    torch.testing.assert_close(weight.sum(2), torch.ones(4, 2))


def test_sizes_are_the_published_ones():
    loss = AFD(S, T)
    assert loss.places_s.shape == (3, 128)
    assert loss.bilinear[0].weight.shape == (2 * 128, 128)
    assert [len(k) for k in loss.keys] == [3, 3, 3]  # ReLU behind keys, not behind queries
    assert [len(q) for q in loss.queries] == [2, 2]


def test_under_autocast_likeness_is_float32():
    torch.manual_seed(0)
    loss = AFD(S, T, dim=6)
    s, t = maps(S), maps(T)
    loss(s, t)
    loss.eval()
    with torch.autocast("cpu", torch.bfloat16):
        weight = loss.weight(s, [g.mean((2, 3)) for g in t])
        keys = [loss.bilinear(key(f.mean((2, 3)))).double() for key, f in zip(loss.keys, s, strict=True)]
        queries = [query(g.mean((2, 3))).double() for query, g in zip(loss.queries, t, strict=True)]
    places = loss.places_t.double() @ loss.places_s.double().T
    for i, query in enumerate(queries):
        scores = torch.stack([(key.view(4, 2, 6)[:, i] * query).sum(1) for key in keys], 1) + places[i]
        torch.testing.assert_close(weight[:, i].double(), (scores / 6**0.5).softmax(1), rtol=1e-5, atol=1e-6)
