"""Noise-contrastive estimation over the last axis; the memories are tested with CRD."""

import pytest
import torch

from potstill.losses._memory import Embed, Memory, Negatives, nce


def test_nce_reads_the_last_axis_of_any_shape() -> None:
    torch.manual_seed(0)
    log_h = torch.randn(6, 5)
    value, slope = nce(log_h, 50)
    for shape in ((5,), (2, 3, 5)):
        part = log_h[0] if shape == (5,) else log_h.view(shape)
        v, g = nce(part, 50)
        torch.testing.assert_close(v, value[0] if shape == (5,) else value.view(2, 3))
        torch.testing.assert_close(g, slope[0] if shape == (5,) else slope.view(shape))


@pytest.mark.parametrize(
    ("shape", "mean"), [((6,), ()), ((6, 2, 3), (2, 3)), ((5, 6), (1,))], ids=["vector", "map", "tokens"]
)
def test_maps_and_tokens_are_averaged_mapped_and_brought_to_length_1(
    shape: tuple[int, ...], mean: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    embed = Embed(shape, 4)
    f = torch.randn(3, *shape)
    said = embed.map(f.mean(mean) if mean else f)
    assert embed.map.in_features == 6
    torch.testing.assert_close(embed(f), said / said.norm(dim=1, keepdim=True))


def test_a_sample_without_a_label_is_a_class_of_its_own_wherever_it_stands() -> None:
    drawn = Negatives(torch.tensor([-1, 0, 0, -1, 1]), 5)
    assert [int(drawn.count[c]) for c in drawn.cls] == [1, 2, 2, 1, 1]
    assert not drawn.state_dict()  # the labels are the data's


def test_samples_without_a_label_are_of_no_class_that_there_is() -> None:
    drawn = Negatives(torch.tensor([0, 0, 1, -1, -1, 2]), 6)
    assert drawn.count.tolist() == [2, 1, 1, 1, 1]
    assert len(drawn.cls.unique()) == 5


def test_every_sample_of_a_class_is_a_relative() -> None:
    torch.manual_seed(0)
    drawn = Negatives(torch.tensor([1, 0, 1, 1]), 4).relatives(torch.tensor([2] * 60 + [1]))
    assert {*drawn[:60].tolist()} == {0, 2, 3}
    assert drawn[60] == 1


def test_what_is_not_yet_known_is_of_about_unit_length() -> None:
    torch.manual_seed(0)
    memory = Memory(500, 64, 0.07, 0.5)
    for bank in (memory.student, memory.teacher):
        assert bank.norm(dim=1).mean().item() == pytest.approx(1, abs=0.02)
        assert bank.mean().item() == pytest.approx(0, abs=0.005)


def test_scores_are_float32_under_autocast_and_banks_hold_no_graph() -> None:
    torch.manual_seed(0)
    memory = Memory(50, 16, 0.07, 0.5)
    z = torch.nn.functional.normalize(torch.randn(6, 16)).requires_grad_()
    ids, index = torch.arange(6), torch.randint(50, (6, 9))
    plain = memory.nce(z, "teacher", index)
    with torch.autocast("cpu", torch.bfloat16):
        again = memory.nce(z, "teacher", index)
    assert torch.equal(plain, again)
    memory.remember(ids, z, z)
    assert not memory.student.requires_grad
    assert torch.allclose(memory.student[:6].norm(dim=1), torch.ones(6))
