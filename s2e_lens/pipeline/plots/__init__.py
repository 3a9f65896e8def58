"""Every kind of figure from files: what the command ``plot`` draws."""

from collections.abc import Callable

from s2e_lens.errors import PlanError
from s2e_lens.pipeline.plots import files, texts
from s2e_lens.pipeline.plots.inputs import Asked, Drawn, Inputs, read_inputs

__all__ = ["KINDS", "Asked", "Drawn", "Inputs", "plot", "read_inputs"]


KINDS: dict[str, Callable[[Inputs, Asked], Drawn]] = {
    "heads": files.heads,
    "neurons": files.neurons,
    "curves": files.curves,
    "bins": files.bins,
    "distribution": files.distribution,
    "dose": files.dose,
    "geometry": files.geometry,
    "tradeoff": files.tradeoff,
    "changes": files.changes,
    "lens": texts.lens,
    "effects": texts.effects,
    "next": texts.following,
    "projections": texts.along,
    "firings": texts.fires,
    "attention": texts.attention,
    "activations": texts.active,
}
"""What draws each kind, by the name that the command line uses; the functions say what they show."""


def plot(kind: str, inputs: Inputs, asked: Asked | None = None) -> Drawn:
    """Draw a kind of figure from what was read; figures by name.

    Raises:
        PlanError: if there is no such kind, or it needs something that did not come.
        S2EError: if the inputs do not belong together.
    """
    if kind not in KINDS:
        raise PlanError(f"there is no figure {kind!r}. There are: {', '.join(KINDS)}.")
    found = KINDS[kind](inputs, asked or Asked())
    if not found:
        raise PlanError(f"there is nothing to draw: the {kind} of these files are empty (an edit without an edited component?).")
    return found
