"""Every test runs offline and on a fixed number of threads."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

torch.set_num_threads(1)  # the test runner uses the other cores


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
