"""One context for arithmetic that decides a result."""

from contextlib import AbstractContextManager
from typing import Any

import torch


def exact(device: torch.device) -> AbstractContextManager[Any, bool | None]:
    """Autocast off: means, scores and edits keep float32 also where a user runs everything in bfloat16."""
    return torch.autocast(device.type, enabled=False)
