"""The explorer: a page in the browser on which heads and neurons, an edit and its answers are looked at.

It needs the extra ``app`` (Dash).
"""

from s2e_lens.errors import MissingPackageError

try:
    import dash as _dash  # noqa: F401
except ImportError as error:
    raise MissingPackageError("dash", extra="app", what="the explorer") from error

from s2e_lens.app.server import Explorer, explore

__all__ = ["Explorer", "explore"]
