"""Every kind of figure from files: what the command ``plot`` draws."""

from collections.abc import Callable
from dataclasses import dataclass

from s2e_lens.errors import PlanError
from s2e_lens.pipeline.plots import files, texts
from s2e_lens.pipeline.plots.inputs import Asked, Drawn, Inputs, read_inputs

__all__ = ["KINDS", "Asked", "Drawn", "Inputs", "Kind", "plot", "read_inputs"]


@dataclass(frozen=True)
class Kind:
    """A kind of figure."""

    draw: Callable[[Inputs, Asked], Drawn]
    shows: str


KINDS: dict[str, Kind] = {
    "heads": Kind(files.heads, "scores of the heads (or λ, from an edit alone), layer by head"),
    "neurons": Kind(files.neurons, "the top neurons"),
    "curves": Kind(files.curves, "scores of the neurons by rank, a curve per layer"),
    "bins": Kind(files.bins, "all neurons in bins, layer by layer, no spike hidden"),
    "distribution": Kind(files.distribution, "where edits sit, one or several side by side"),
    "dose": Kind(files.dose, "how hard each edited component pushes, against its score"),
    "geometry": Kind(files.geometry, "norms of steering vectors, and cosines between layers, sites and behaviours"),
    "tradeoff": Kind(files.tradeoff, "attribute against utility: edits, steering, controls (of a sweep)"),
    "changes": Kind(files.changes, "which questions the edit changed (of a sweep)"),
    "lens": Kind(texts.lens, "tokens that each layer's steering vector promotes and suppresses"),
    "effects": Kind(texts.effects, "direct effect of each edited component on the logits of tokens"),
    "next": Kind(texts.following, "next-token probabilities: unedited, steered, edited"),
    "projections": Kind(texts.along, "a text coloured by projection on the steering vectors"),
    "firings": Kind(texts.fires, "a text coloured by when the edit fires"),
    "attention": Kind(texts.attention, "attention patterns of heads"),
    "activations": Kind(texts.active, "a text with activations of neurons and heads"),
}
"""By the name that the command line uses."""


def plot(kind: str, inputs: Inputs, asked: Asked | None = None) -> Drawn:
    """Draw a kind of figure from what was read; figures by name.

    Raises:
        PlanError: if there is no such kind, or it needs something that did not come.
        S2EError: if the inputs do not belong together.
    """
    if kind not in KINDS:
        raise PlanError(f"there is no figure {kind!r}. There are: {', '.join(KINDS)}.")
    found = KINDS[kind].draw(inputs, asked or Asked())
    if not found:
        raise PlanError(f"there is nothing to draw: the {kind} of these files are empty (an edit without an edited component?).")
    return found
