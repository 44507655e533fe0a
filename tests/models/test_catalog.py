import subprocess
import sys

import pytest

from potstill.errors import ModelError
from potstill.models.catalog import ALIASES, CATALOG, find, known


def test_listing_needs_no_torch() -> None:
    code = "import sys, potstill.models.catalog, potstill.models.spec; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("resnet20", "resnet20"),
        ("RESNET20", "resnet20"),
        ("WRN-40-2", "wrn_40_2"),
        ("MobileNetV2", "mobile_half"),
        ("vgg8_bn", "vgg8"),
    ],
)
def test_names_of_the_field(name: str, own: str) -> None:
    assert find(name) == (own, CATALOG[own])


def test_aliases_hide_no_net() -> None:
    assert set(ALIASES.values()) <= set(CATALOG)
    assert not set(ALIASES) & {n.lower() for n in CATALOG}
    assert [known(n) for n in CATALOG] == list(CATALOG)


def test_unknown_net_names_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"'resnt20'.*'resnet20'") as e:
        find("resnt20")
    assert "potstill list models" in str(e.value)
