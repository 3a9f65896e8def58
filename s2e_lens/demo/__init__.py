"""The demo: a small chat model that comes with the package, and three behaviours to extract, edit and measure on it.

``s2e_lens.load_model("demo")`` loads it and ``s2e_lens.behaviors.load_behavior("safety")`` reads a behaviour; README.md in
this folder is the model card. The corpus is made by :mod:`s2e_lens.demo.conversations` out of :mod:`s2e_lens.demo.world`, the
questions by ``python -m s2e_lens.demo.splits``, and the model by ``python -m s2e_lens.demo.train``.
"""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
DATA_FOLDER = Path(__file__).parent / "data"
BEHAVIORS = ("safety", "truthfulness", "efficiency")
