"""Models: the only importer of transformer_lens. One adapter over a bridge, a HookedTransformer and plain HF models."""

from s2e_lens.models.base import Batch, LensModel, Reduce, Shapes, SiteFn
from s2e_lens.models.generation import seeded
from s2e_lens.models.loading import load_model
from s2e_lens.models.norms import Norm
from s2e_lens.models.text import TextCodec

__all__ = ["Batch", "LensModel", "Norm", "Reduce", "Shapes", "SiteFn", "TextCodec", "load_model", "seeded"]
