"""Every test runs offline and on a fixed number of threads."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # the test runner uses the other cores


# The suite says the same of the same code each time; `pytest --hypothesis-profile search` looks for new cases.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
