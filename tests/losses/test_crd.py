import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from potstill.errors import ModelError
from potstill.losses import CRD, _memory
from potstill.losses._memory import Negatives, last_of_each, nce
from potstill.types import Batch


def seen(ids, y=None):
    return Batch(torch.zeros(len(ids), 1), ids if y is None else y, ids, torch.zeros_like(ids))


def from_golden(g, negatives=12) -> CRD:
    """The loss of the golden case: embeddings as given, memories before the step."""
    loss = CRD((16,), (16,), 40, dim=16, negatives=negatives)
    loss.embed_s, loss.embed_t = nn.Identity(), nn.Identity()
    loss.memory.student.copy_(g["memory_student"])
    loss.memory.teacher.copy_(g["memory_teacher"])
    return loss


@pytest.mark.parametrize("rows_per_row", [64, 0], ids=["dense", "gathered"])
def test_loss_gradient_and_memory_equal_repdistiller(golden, monkeypatch, rows_per_row):
    monkeypatch.setattr(_memory, "DENSE", rows_per_row)
    g = golden("crd.nce")
    loss = from_golden(g)
    g.check(loss(g["student_embedding"], g["teacher_embedding"], seen(g["index"]), g["contrast_idx"]))
    torch.testing.assert_close(loss.memory.student, g.outputs["memory_student"])
    torch.testing.assert_close(loss.memory.teacher, g.outputs["memory_teacher"])


def by_hand(z_s, z_t, m_s, m_t, ids, index, constants, tau=0.07, momentum=0.5):
    """One step in float64 as the authors write it: explicit exp, NCE with 1e-7, memories after scoring."""
    n, k = len(m_s), index.shape[1] - 1
    total = torch.zeros(len(ids), dtype=torch.float64)
    for side, (z, m) in enumerate(((z_s, m_t), (z_t, m_s))):
        o = torch.stack([torch.exp(m[index[b]] @ z[b] / tau) for b in range(len(ids))])
        if constants[side] is None:
            constants[side] = o.mean() * n
        p = o / constants[side]
        positive = torch.log(p[:, 0] / (p[:, 0] + k / n + 1e-7))
        negative = torch.log((k / n) / (p[:, 1:] + k / n + 1e-7)).sum(1)
        total -= positive + negative
    for z, m in ((z_s, m_s), (z_t, m_t)):
        new = momentum * m[ids] + (1 - momentum) * z
        m[ids] = new / new.norm(dim=1, keepdim=True)
    return total


def test_several_steps_equal_the_formula_by_hand():
    torch.manual_seed(0)
    n, k, B, d = 30, 7, 5, 6
    loss = CRD((4,), (9,), n, dim=d, negatives=k)
    m_s, m_t = loss.memory.student.double(), loss.memory.teacher.double()
    constants = [None, None]
    for _ in range(4):
        ids = torch.randperm(n)[:B]
        index = torch.cat([ids[:, None], torch.randint(n, (B, k))], 1)
        s, t = torch.randn(B, 4), torch.randn(B, 9)
        z_s, z_t = loss.embed_s(s).detach().double(), loss.embed_t(t).detach().double()
        expected = by_hand(z_s, z_t, m_s, m_t, ids, index, constants)
        torch.testing.assert_close(loss(s, t, seen(ids), index).double(), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(loss.memory.student.double(), m_s, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(loss.memory.teacher.double(), m_t, rtol=1e-5, atol=1e-6)


def test_the_memory_may_be_overwritten_before_the_backward_and_rests_in_eval(golden):
    g = golden("crd.nce")
    loss = from_golden(g)
    args = (g["student_embedding"], g["teacher_embedding"], seen(g["index"]), g["contrast_idx"])
    rows = loss(*args)
    loss.memory.teacher.zero_()
    rows.mean().backward()
    torch.testing.assert_close(args[0].grad, g.grads["student_embedding"], rtol=1e-4, atol=1e-5)
    loss.eval()
    before = loss.memory.student.clone()
    loss(*args)
    assert torch.equal(loss.memory.student, before)


def test_state_has_memories_and_constants(golden):
    g = golden("crd.nce")
    loss = from_golden(g)
    args = (g["student_embedding"], g["teacher_embedding"], seen(g["index"]), g["contrast_idx"])
    loss(*args)
    assert {"memory.student", "memory.teacher", "memory.log_z"} <= set(loss.state_dict())
    other = from_golden(g)
    other(g["teacher_embedding"], g["student_embedding"], *args[2:])  # another Z, to be replaced
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(*args), loss(*args))


def test_a_fresh_state_loaded_into_a_used_loss_fixes_its_constants_anew():
    args = torch.randn(6, 4), torch.randn(6, 4), seen(torch.arange(6))
    loss = CRD((4,), (4,), 40, negatives=8)
    fresh = {k: v.clone() for k, v in loss.state_dict().items()}
    loss(*args)
    loss.load_state_dict(fresh)
    assert loss(*args).isfinite().all()
    assert loss.memory.log_z.isfinite().all()


def test_nce_with_its_constant_by_hand():
    """With few negatives of very many samples the 1e-7 beside the noise is not small."""
    log_h = torch.randn(3, 4, dtype=torch.float64).sub(15).requires_grad_()
    h, c = log_h.exp(), 3 / 10_000_000
    expected = -(h[:, 0] / (h[:, 0] + c + 1e-7)).log() - (c / (h[:, 1:] + c + 1e-7)).log().sum(1)
    value, gradient = nce(log_h.detach(), 10_000_000)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), log_h)[0])


def test_of_a_sample_seen_twice_the_last_view_counts():
    assert last_of_each(torch.tensor([7, 3, 7, 5, 3, 7])).tolist() == [5, 4, 5, 3, 4, 5]


LABELS = torch.tensor([0] * 4 + [1] * 6 + [2] * 30)[torch.randperm(40, generator=torch.Generator().manual_seed(3))]


@pytest.mark.parametrize("balanced", [False, True])
def test_negatives_are_of_other_classes_and_all_are_drawn(balanced):
    torch.manual_seed(0)
    ids = torch.arange(40)
    drawn = Negatives(LABELS, 40)(ids, 4000, balanced)
    assert (LABELS[drawn] != LABELS[ids][:, None]).all()
    for b in (int((c == LABELS).nonzero()[0]) for c in range(3)):
        others = (LABELS[b] != LABELS).nonzero().flatten()
        share = torch.bincount(drawn[b], minlength=40)[others] / 4000
        if balanced:  # every other class has half
            expected = torch.tensor([0.5 / int((LABELS[i] == LABELS).sum()) for i in others])
        else:
            expected = torch.full((len(others),), 1 / len(others))
        torch.testing.assert_close(share, expected, rtol=0.35, atol=0.01)


def test_a_sample_without_a_label_has_all_others_as_negatives():
    torch.manual_seed(0)
    for labels in (None, torch.full((5,), -1)):
        drawn = Negatives(labels, 5)(torch.arange(5), 200, False)
        assert all(set(drawn[b].tolist()) == {0, 1, 2, 3, 4} - {b} for b in range(5))


def test_relaxed_positives_are_of_the_same_class():
    torch.manual_seed(0)
    ids = torch.arange(40).repeat(50)
    positive = CRD((3,), (3,), 40, LABELS, negatives=2, positives="relaxed").draw(ids)[:, 0]
    assert torch.equal(LABELS[positive], LABELS[ids])
    assert (positive != ids).any()
    exact = CRD((3,), (3,), 40, LABELS, negatives=2).draw(ids)[:, 0]
    assert torch.equal(exact, ids)


def test_refusals():
    with pytest.raises(ModelError, match="one class"):
        CRD((3,), (3,), 40, torch.zeros(40))
    with pytest.raises(ModelError, match="40 training samples"):
        CRD((3,), (3,), 40, LABELS[:-1])
    with pytest.raises(TypeError, match="batch"):
        CRD((3,), (3,), 40, LABELS)(torch.randn(2, 3), torch.randn(2, 3))


def test_a_bank_far_from_float16_range_is_finite():
    """exp(1 / 0.07) = 1.6e6 overflows float16; a positive far below the noise underflows."""
    loss = CRD((4,), (4,), 40, LABELS, negatives=8, temperature=0.005)
    s = torch.randn(6, 4, dtype=torch.float16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.float16):
        loss(s, torch.randn(6, 4), seen(torch.arange(6))).sum().backward()
    assert s.grad.isfinite().all()


STEPS, N, B, K = 3, 20, 6, 5


def data():
    g = torch.Generator().manual_seed(5)
    for _ in range(STEPS):
        ids = torch.randperm(N, generator=g)[:B]
        ids[-1] = ids[0]  # seen twice in one step, once by each process
        yield (
            ids,
            torch.randn(B, 4, generator=g),
            torch.randn(B, 7, generator=g),
            torch.cat([ids[:, None], torch.randint(N, (B, K), generator=g)], 1),
        )


def train(part: slice) -> tuple[dict, list]:
    torch.manual_seed(0)
    loss, rows = CRD((4,), (7,), N, dim=8, negatives=K), []
    for ids, s, t, index in data():
        rows.append(loss(s[part], t[part], seen(ids[part]), index[part]).tolist())
    return loss.memory.state_dict(), rows


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    part = slice(0, 2) if rank == 0 else slice(2, B)  # uneven shares
    torch.save(train(part), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_remember_what_one_would(tmp_path):
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    memory, rows = train(slice(None))
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for key in ("student", "teacher", "log_z"):
        assert torch.equal(states[0][0][key], states[1][0][key])
        torch.testing.assert_close(states[0][0][key], memory[key])
    for step in range(STEPS):
        assert states[0][1][step] + states[1][1][step] == pytest.approx(rows[step], rel=1e-4)
