import torch

from potstill.losses import TTM, WTTM


def test_equals_the_authors_code(golden):
    g = golden("wttm.l0.1")
    g.check(WTTM(0.1)(g["student_logits"], g["teacher_logits"]))


def test_it_is_ttm_weighted_by_the_sum_of_powers():
    torch.manual_seed(0)
    s, t = torch.randn(4, 5), 3 * torch.randn(4, 5)
    sums = [sum(float(p) ** 0.4 for p in row) for row in t.softmax(1)]
    torch.testing.assert_close(WTTM(0.4)(s, t), torch.tensor(sums) * TTM(0.4)(s, t))


def test_a_sure_teacher_counts_least():
    s = torch.zeros(2, 3)
    sure, unsure = WTTM(0.5)(s, torch.tensor([[450.0, 0.0, 0.0], [0.1, 0.0, 0.0]])) / TTM(0.5)(
        s, torch.tensor([[450.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    )
    torch.testing.assert_close(sure, torch.tensor(1.0))
    torch.testing.assert_close(unsure, torch.tensor(3**0.5), rtol=1e-3, atol=0)
