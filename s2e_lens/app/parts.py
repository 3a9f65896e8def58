"""Small things for building pages."""

from collections.abc import Mapping
from typing import Any


def extra(attributes: Mapping[str, str]) -> dict[str, Any]:
    """``data-`` and ``aria-`` attributes, which Dash takes under names that Python has not."""
    return dict(attributes)
