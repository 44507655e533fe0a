import inspect

import pytest

from potstill.config.introspect import read_class
from potstill.methods import PRESETS
from potstill.methods.build import loss_class
from potstill.methods.facts import DATA, is_fact
from potstill.methods.supply import NOTICES, SUPPLY


@pytest.mark.parametrize("name", PRESETS)
def test_every_fact_that_a_preset_asks_for_is_known_to_builder_and_configuration(name: str) -> None:
    arguments = [p for p in inspect.signature(loss_class(name)[0].__init__).parameters if is_fact(p)]
    assert {*arguments} <= {*SUPPLY} | DATA
    assert {*arguments} == {*read_class(PRESETS[name].loss).facts}


def test_the_rule() -> None:
    assert all(is_fact(name) for name in (*SUPPLY, *DATA))
    assert not any(is_fact(name) for name in ("temperature", "softness", "target", "sigma", "labels_only"))
    assert {*NOTICES} <= {*SUPPLY}
