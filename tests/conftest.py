"""What several tests share: where the golden vectors are, and one thread for exact repeats."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden vectors and real data beside the project; tests skip without it."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (golden vectors and real data), which is not here")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(2)
