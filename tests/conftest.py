"""What all tests share: one thread a process, and one small world with its caches."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what tiny runs have in common: the world, decoded media, features of frozen towers."""
    return tmp_path_factory.mktemp("shared")
