"""Settings that are compared: edits, steering, controls. A setting is a few numbers; a bench makes conditions of them."""

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

from s2e_lens.attribution import SCORES, check_measured_on
from s2e_lens.editor import EditBasis, edited, plan_edit, plan_to_gain, prepare_edit, strongest_first
from s2e_lens.editor.apply import edit_effects
from s2e_lens.effects import POSITIONS, Positions
from s2e_lens.errors import PlanError
from s2e_lens.evaluation.sharing import Condition
from s2e_lens.models import LensModel
from s2e_lens.results import SITES, Directions, Edit, Site
from s2e_lens.steering import ablation, addition, random_components, random_directions

Method = Literal[
    "base",
    "edit",
    "steering",
    "normalised steering",
    "ablation",
    "system prompt",
    "random direction",
    "random components",
    "random components, signs too",
]
EDIT = "edit"
RANDOM_COMPONENTS: tuple[Method, Method] = ("random components", "random components, signs too")
"""λ of the same sizes elsewhere, pushing towards +v as an edit does, or with signs drawn along with the sizes."""


@dataclass(frozen=True, eq=False)
class Setting:
    """One way to run the model, as numbers that can be written down."""

    method: Method
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """The setting as one line of JSON: two settings are the same if their keys are."""
        return json.dumps({"method": self.method, **{name: self.options[name] for name in sorted(self.options)}})

    @property
    def strength(self) -> float | None:
        """The strength of steering."""
        return self.options.get("strength")

    @property
    def everywhere(self) -> bool:
        """Whether it acts on all layers, sites and positions, as the published steering does."""
        return not {"layers", "sites", "positions"} & self.options.keys()

    @property
    def label(self) -> str:
        """A short name for tables."""
        parts = [str(self.method)]
        if self.strength is not None:
            parts.append(f"{self.strength:g}")
        names = {"rho_attn": "ρ attn", "rho_mlp": "ρ mlp", "alpha": "α", "scale": "λ ×", "seed": "seed"}
        parts += [f"{name} {self.options[key]:.3g}" for key, name in names.items() if self.options.get(key) is not None]
        if self.options.get("score") not in (None, "cosine"):
            parts.append(self.options["score"])
        if self.options.get("relative"):
            parts.append("relative")
        if self.options.get("positions", "all") != "all":
            parts.append(f"on {self.options['positions']}")
        if self.options.get("sites"):
            parts.append("+".join(self.options["sites"]))
        if self.options.get("layers"):
            parts.append(f"layers {_shown_layers(self.options['layers'])}")
        return " ".join(parts)

    @classmethod
    def of_edit(cls, edit: Edit, **more: Any) -> "Setting":
        """The setting of a planned edit."""
        known = edit.provenance.settings
        options = {name: known.get(name) for name in ("score", "rho_attn", "rho_mlp", "alpha", "relative")}
        for name in ("rho_attn", "rho_mlp"):  # a solved ρ may differ in its last digits on another machine; its key shall not
            options[name] = None if options[name] is None else float(f"{options[name]:.6g}")
        if known.get("layers") is not None:
            options["layers"] = list(known["layers"])
        if known.get("scale", 1.0) != 1.0:
            options["scale"] = known["scale"]
        return cls("edit", {**options, **more})


def _shown_layers(layers: Sequence[int]) -> str:
    whole = list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}-{layers[-1]}" if whole and len(layers) > 1 else "+".join(map(str, layers))


DEPTHS = {"early": "0%-50%", "middle": "25%-75%", "late": "50%-100%"}
"""Shares of a model's depth, by name."""


def layers_of(text: str, n_layers: int) -> tuple[int, ...] | None:
    """Layers that a name, a range or a share of the depth means in a model; None for all.

    >>> layers_of("early", 6), layers_of("0%-67%", 6), layers_of("2-4", 6), layers_of("5", 6), layers_of("all", 6)
    ((0, 1, 2), (0, 1, 2, 3), (2, 3, 4), (5,), None)

    Raises:
        PlanError: if it is none of these, or such layers are not there.
    """
    if text == "all":
        return None
    found: list[int] = []
    if share := re.fullmatch(r"(\d+)%-(\d+)%", DEPTHS.get(text, text)):
        low, high = (round(int(each) / 100 * n_layers) for each in share.groups())
        found = list(range(low, min(high, n_layers)))
    elif span := re.fullmatch(r"(\d+)(?:-(\d+))?", text):
        first, last = int(span[1]), int(span[2] or span[1])
        found = list(range(first, last + 1)) if last < n_layers else []
    if not found:
        raise PlanError(
            f"layers are all, {', '.join(DEPTHS)}, a share of the depth as 0%-67%, or a range as 2-{n_layers - 1}, of layers 0 "
            f"to {n_layers - 1}; got {text!r}."
        )
    return tuple(found)


def steering_settings(
    strengths: Sequence[float],
    *,
    method: Literal["steering", "normalised steering"] = "steering",
    sites: Sequence[Site] | None = None,
    layers: Sequence[int] | None = None,
    positions: Positions = "all",
) -> list[Setting]:
    """Activation addition at some strengths, weakest first.

    Raises:
        PlanError: for strengths that are missing, not finite or there twice.
    """
    if not strengths or len({f"{each:g}" for each in strengths}) < len(strengths) or not all(map(math.isfinite, strengths)):
        raise PlanError(f"strengths of steering must be some different numbers, got {list(strengths)}.")
    kept = {"sites": None if sites is None else list(sites), "layers": None if layers is None else list(layers)}
    kept["positions"] = None if positions == "all" else positions
    options = {name: value for name, value in kept.items() if value is not None}
    return [Setting(method, {"strength": float(each), **options}) for each in sorted(strengths)]


@dataclass(frozen=True)
class Grid:
    """Edits to try: values per site and α, each combination once. None leaves a site out."""

    attn: tuple[float | None, ...]
    mlp: tuple[float | None, ...]
    alphas: tuple[float, ...]
    by: Literal["gain", "rho"] = "rho"
    """What the values are: ρ, or the largest gain λ/‖Wv̂‖, from which ρ follows; gains compare across models."""
    scores: tuple[str, ...] = ("cosine",)
    relative: bool = False
    layers: tuple[str, ...] = ("all",)
    """Which layers are edited: see :func:`layers_of`."""

    def __post_init__(self) -> None:
        unknown = set(self.scores) - set(SCORES)
        bad = [each for each in (*self.attn, *self.mlp) if each is not None and not (math.isfinite(each) and each > 0)]
        if unknown or bad or not (self.attn and self.mlp and self.alphas and self.scores):
            raise PlanError(
                f"a grid needs positive values per site (None leaves it out), α and scores among {', '.join(SCORES)}; got {self}."
            )

    def settings(self, bench: "Bench") -> list[Setting]:
        """Every combination as a setting, the largest update first."""
        edits = [
            bench.plan(score, attn, mlp, alpha, by=self.by, relative=self.relative, layers=layers)
            for score, attn, mlp, alpha, layers in itertools.product(self.scores, self.attn, self.mlp, self.alphas, self.layers)
            if self._possible(bench, attn, mlp)
        ]
        if not edits:
            raise PlanError(f"the grid leaves both sites out everywhere: {self}.")
        return [Setting.of_edit(edit) for edit in strongest_first(edits)]

    @staticmethod
    def _possible(bench: "Bench", attn: float | None, mlp: float | None) -> bool:
        given: dict[Site, float | None] = {"attn": attn, "mlp": mlp}
        return any(given.values()) and all(
            value is None or bench.model.shapes.components(site)[0] for site, value in given.items()
        )


DEFAULT_GRID = Grid(
    (None, 0.5, 1.0),
    (None, 1.0, 2.0, 4.0),
    (0.05, 0.5),
    by="gain",
    scores=("cosine", "contrast"),
    layers=("all", "0%-67%", "late"),
)
"""For any model: gains, which mean the same everywhere; two scores; all layers, without the last third, and the later half."""


def span(first: float, last: float, step: float) -> tuple[float, ...]:
    """first, first + step, …, last.

    >>> span(0.1, 0.14, 0.02)
    (0.1, 0.12, 0.14)

    Raises:
        PlanError: unless step > 0 and last >= first.
    """
    if not (step > 0 and last >= first and all(map(math.isfinite, (first, last, step)))):
        raise PlanError(f"a range is FIRST:LAST:STEP with a positive step and LAST not below FIRST; got {first}:{last}:{step}.")
    return tuple(round(first + i * step, 10) for i in range(math.floor((last - first) / step + 1e-9) + 1))


def parse_values(text: str) -> tuple[float | None, ...]:
    """``0.1:0.3:0.1`` as a range, ``0.1,0.3`` as a list, ``-`` for leaving the site out (also as a member of a list).

    >>> parse_values("-,0.1:0.3:0.1")
    (None, 0.1, 0.2, 0.3)

    Raises:
        PlanError: if it is none of these.
    """
    found: list[float | None] = []
    try:
        for part in text.split(","):
            numbers = part.strip().split(":")
            if numbers == ["-"]:
                found.append(None)
            elif len(numbers) == 3:
                found += span(*map(float, numbers))
            else:
                (number,) = numbers
                found.append(float(number))
    except ValueError:
        raise PlanError(
            f"{text!r} is no list of values: write 0.1,0.2 or FIRST:LAST:STEP, and - to leave the site out."
        ) from None
    return tuple(dict.fromkeys(found))


PRESETS: dict[tuple[str, str], Grid] = {
    ("llama-2-7b-chat", "safety"): Grid(span(0.16, 0.24, 0.02), span(0.35, 0.55, 0.05), span(0.7, 0.9, 0.05)),
    ("mistral-7b-instruct-v0.2", "safety"): Grid(span(0.42, 0.50, 0.02), span(0.40, 0.60, 0.05), span(0.65, 0.85, 0.05)),
    ("gemma-2-2b", "truthfulness"): Grid(span(0.3, 0.5, 0.05), (None,), span(0.75, 0.95, 0.05)),
    ("llama-3-8b", "truthfulness"): Grid(span(0.10, 0.14, 0.01), span(0.3, 0.5, 0.05), span(0.3, 0.7, 0.1)),
    ("qwen3-4b-thinking", "efficiency"): Grid((None,), span(0.65, 0.8, 0.05), span(0.05, 0.2, 0.05)),
    ("openmath-nemotron-7b", "efficiency"): Grid(span(0.2, 0.3, 0.05), span(0.8, 0.9, 0.05), span(0.1, 0.2, 0.05)),
}
"""The grids of the paper (arXiv 2602.09870), by model and behaviour."""

PUBLISHED: dict[tuple[str, str], tuple[float | None, float | None, float]] = {
    ("llama-2-7b-chat", "safety"): (0.18, 0.55, 0.8),
    ("mistral-7b-instruct-v0.2", "safety"): (0.42, 0.55, 0.75),
    ("gemma-2-2b", "truthfulness"): (0.3, None, 0.9),
    ("llama-3-8b", "truthfulness"): (0.1, 0.3, 0.4),
    ("qwen3-4b-thinking", "efficiency"): (None, 0.8, 0.05),
    ("openmath-nemotron-7b", "efficiency"): (0.3, 0.9, 0.2),
}
"""What the paper reports: ρ of the heads, ρ of the neurons (None leaves the site out) and α."""


def preset(model: str, behavior: str) -> Grid:
    """The paper's grid for a model, by its name or a path that ends in it.

    Raises:
        PlanError: if the paper has none.
    """
    name = re.sub(r"^meta-", "", model.rstrip("/").rsplit("/", 1)[-1].lower())
    found = [grid for (known, what), grid in PRESETS.items() if what == behavior and name.startswith(known)]
    if not found:
        listed = ", ".join(f"{known} ({what})" for known, what in PRESETS)
        raise PlanError(
            f"the paper has no grid for {model!r} and {behavior!r}; it has {listed}. Give values, or use the default grid."
        )
    return found[0]


class Bench:
    """A model with a direction: v̂, k and g are computed once, and any setting becomes a condition in a few vector operations."""

    def __init__(self, model: LensModel, directions: Directions, *, system: str | None = None):
        """Prepare settings of one behaviour; the directions must be the model's own.

        ``system`` is the text of the system-prompt baseline; only its label is used here.

        Raises:
            MismatchError: if the directions are another model's.
        """
        check_measured_on(model, directions)
        self.model, self.directions, self.system = model, directions, system
        self._bases: dict[str, EditBasis] = {}

    def basis(self, score: str) -> EditBasis:
        """The basis of edits of a score.

        Raises:
            PlanError: if there is no such score.
            MismatchError: if the directions are another model's.
        """
        if score not in SCORES:
            raise PlanError(f"score {score!r} is not one of {', '.join(SCORES)}.")
        if score not in self._bases:
            self._bases[score] = prepare_edit(self.model, self.directions, score=SCORES[score])
        return self._bases[score]

    def plan(
        self,
        score: str,
        attn: float | None,
        mlp: float | None,
        alpha: float,
        *,
        by: Literal["gain", "rho"],
        relative: bool = False,
        layers: str = "all",
    ) -> Edit:
        """An edit by ρ or by largest gains; None leaves a site out."""
        basis, chosen = self.basis(score), layers_of(layers, self.model.shapes.n_layers)
        if chosen is not None:
            basis = basis.at(chosen)
        if by == "rho":
            return plan_edit(basis, rho_attn=attn, rho_mlp=mlp, alpha=alpha, relative=relative)
        wanted: dict[Site, float | None] = {"attn": attn, "mlp": mlp}
        gains: dict[Site, float] = {site: gain for site, gain in wanted.items() if gain is not None}
        return plan_to_gain(basis, gains, alpha=alpha, relative=relative)

    def edit(self, setting: Setting) -> Edit | None:
        """The edit of a setting, or None where it is none."""
        o = setting.options
        if setting.method not in ("edit", *RANDOM_COMPONENTS):
            return None
        basis = self.basis(o["score"])
        if o.get("layers") is not None:
            basis = basis.at(o["layers"])
        edit = plan_edit(basis, rho_attn=o["rho_attn"], rho_mlp=o["rho_mlp"], alpha=o["alpha"], relative=o["relative"])
        if o.get("scale") is not None:
            edit = o["scale"] * edit
        if setting.method == "edit":
            return edit
        return random_components(edit, basis if setting.method == RANDOM_COMPONENTS[0] else None, seed=o["seed"])

    def condition(self, setting: Setting) -> Condition:
        """How the model is run under a setting; the system prompt changes what is asked, and not the model."""
        o = setting.options
        if setting.method in ("base", "system prompt"):
            return Condition()
        if (edit := self.edit(setting)) is not None:
            # The weights were hashed when the basis was made; force spares doing so at every entry.
            return Condition(edit_effects(edit), partial(edited, self.model, edit, force=True))
        where: dict[str, Any] = {"sites": tuple(o.get("sites", SITES)), "layers": o.get("layers")}
        where["positions"] = o.get("positions", POSITIONS[0])
        if setting.method == "ablation":
            return Condition(ablation(self.directions, **where))
        directions = self.directions
        if setting.method == "random direction":
            directions = random_directions(directions, seed=o["seed"])
        return Condition(addition(directions, o["strength"], normalised=setting.method == "normalised steering", **where))

    def describe(self, setting: Setting) -> dict[str, float | int | None]:
        """Counts of edited heads and neurons, ‖ΔW‖ as planned, and the dose per site over ‖v‖ (None for what is no edit)."""
        edit = self.edit(setting)
        if edit is None:
            return dict.fromkeys(("heads", "neurons", "update_norm", "dose_attn", "dose_mlp", "largest_gain"))
        basis = self.basis(setting.options["score"])
        size = sum(float((term.lam.square() * (basis[site].reach > 0)).sum()) for site in SITES for term in edit[site])
        doses = {f"dose_{site}": sum(basis[site].relative_dose(term) for term in edit[site]) for site in SITES}
        gains = [basis[site].largest_gain(term) for site in SITES for term in edit[site]]
        return {
            "heads": edit.count("attn"),
            "neurons": edit.count("mlp"),
            "update_norm": math.sqrt(size),
            **doses,
            "largest_gain": max(gains, default=0.0),
        }
