"""What several tests here start from."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded_files import make_sounds
from launched import Launcher


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    running = Launcher()
    yield running
    running.close()


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    return make_sounds(tmp_path / "sounds")
