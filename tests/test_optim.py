import pytest
import torch
from torch import nn

from potstill.errors import ConfigError
from potstill.optim import make_optimizer, make_scheduler


def rates(name: str, epochs: int = 10, steps: int = 4, lr: float = 0.2, **arguments: object) -> list[float]:
    """The learning rate at the first step of each epoch, and after the last."""
    optimizer = make_optimizer("sgd", lr=lr)(nn.Linear(1, 1))
    scheduler, per = make_scheduler(name, epochs, **arguments)(optimizer, steps)  # type: ignore[arg-type, misc]
    seen = []
    for i in range(epochs * steps):
        if i % steps == 0:
            seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if per == "step" or (i + 1) % steps == 0:
            scheduler.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


def test_any_optimizer_of_torch_by_name() -> None:
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    adam = make_optimizer("AdamW", lr=0.1, betas=(0.8, 0.9), momentum=None)(net)
    assert isinstance(adam, torch.optim.AdamW)
    assert adam.param_groups[0]["betas"] == (0.8, 0.9)
    assert [p is net.weight for p in adam.param_groups[0]["params"]] == [True]
    with pytest.raises(ConfigError, match="Did you mean 'adamw'"):
        make_optimizer("adamww")
    with pytest.raises(ConfigError, match=r"optim.nestrov: SGD has no such argument. Did you mean 'nesterov'"):
        make_optimizer("sgd", nestrov=True)


def test_the_protocol_of_the_tables() -> None:
    assert rates("multistep", milestones=(3, 6, 9)) == pytest.approx(
        [0.2] * 3 + [0.02] * 3 + [0.002] * 3 + [0.0002] * 2
    )


def test_shapes() -> None:
    cosine = rates("cosine", eta_min=0.02)
    assert cosine[0] == 0.2
    assert cosine[5] == pytest.approx(0.11)
    assert cosine[-1] == pytest.approx(0.02)
    assert rates("linear")[5] == pytest.approx(0.1)
    assert rates("constant") == [0.2] * 11


def test_warm_up() -> None:
    seen = rates("constant", warmup=2)
    assert seen[0] < 0.05
    assert 0.05 < seen[1] < 0.15
    assert seen[2:] == [0.2] * 9
    assert rates("cosine", warmup=2)[2] == pytest.approx(0.2)


def test_any_schedule_of_torch_by_name() -> None:
    assert rates("ExponentialLR", gamma=0.5)[:3] == pytest.approx([0.2, 0.1, 0.05])
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        make_scheduler("cosin", 3)
    with pytest.raises(ConfigError, match="cosine has no such argument"):
        make_scheduler("cosine", 3, gama=1)
    with pytest.raises(ConfigError, match="warmup"):
        make_scheduler("ExponentialLR", 3, warmup=1, gamma=0.1)
