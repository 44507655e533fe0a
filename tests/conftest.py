"""What several tests share: a cache of their own, one thread, a trained teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tiny nets: more threads are slower, and tests must not depend on their number
TEACHER = "zoo:cnn(widths=(12, 24))"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Data are decoded into a cache of the session, not of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POTSTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def teacher_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory: a small net trained on the digits for three epochs."""
    import potstill

    out = tmp_path_factory.mktemp("teacher")
    return potstill.train(TEACHER, "digits", epochs=3, out=str(out), name="teacher", track=[], quiet=True).path
