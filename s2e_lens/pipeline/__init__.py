"""The main job: examples in, report folder out."""

from s2e_lens.pipeline.run import Outcome, run

__all__ = ["Outcome", "run"]
