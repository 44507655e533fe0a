"""A small net that has learned the digits, and its files: made once, since the exporters take seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compress.edge_case import Case, learned


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return learned(tmp_path_factory.mktemp("edge"))


@pytest.fixture(scope="session")
def float_onnx(case: Case) -> Path:
    from potstill.compress.formats import onnx_model, write_onnx
    from potstill.compress.program import Whole, capture, card, picture_shape

    pytest.importorskip("onnxslim")
    program = capture(Whole(case.net), picture_shape(case.net))
    return write_onnx(onnx_model(program, card(case.net, licence="Apache-2.0")), case.folder / "float.onnx")


@pytest.fixture(scope="session")
def float_pt2(case: Case) -> Path:
    from potstill.compress.formats import write_pt2
    from potstill.compress.program import Whole, capture, card, picture_shape

    program = capture(Whole(case.net), picture_shape(case.net))
    return write_pt2(program, case.folder / "float.pt2", card(case.net))
