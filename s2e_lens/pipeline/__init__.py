"""The main job: examples in, report folder out."""

from s2e_lens.pipeline.run import Outcome, run
from s2e_lens.pipeline.verify import verify

__all__ = ["Outcome", "run", "verify"]
