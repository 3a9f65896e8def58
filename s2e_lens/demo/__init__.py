"""The model that ``load_model("demo")`` gives, and examples for it.

For now this is a stand-in: a two-layer model trained on the spot, in a few seconds, on generated sentences about
cheerful and gloomy days. It shows that every step works; it is not a language model anyone would study.
"""

from s2e_lens.demo.standin import demo_examples, demo_model, demo_neutral

__all__ = ["demo_examples", "demo_model", "demo_neutral"]
