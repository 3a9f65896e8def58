"""The main job: examples in, report folder out."""

from s2e_lens.pipeline.measure import Measurement, measure_conditions
from s2e_lens.pipeline.run import Outcome, run

__all__ = ["Measurement", "Outcome", "measure_conditions", "run"]
