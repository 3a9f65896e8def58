"""All that an explorer page shows, as a few plain values: they live in the page and in its address, never in the server."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl, urlencode

from s2e_lens.attribution import SCORES
from s2e_lens.directions import METHODS
from s2e_lens.errors import S2EError
from s2e_lens.evaluation.settings import Setting
from s2e_lens.results import component_label, parse_component

TABS = ("components", "prompt", "vector", "tradeoff", "takeaway")
LONGEST_PROMPT = 2000
"""Characters of a prompt that still go into the address: browsers and servers cut long ones."""

MOST_TOKENS = 512
"""New tokens that an answer may have at most."""

FILE = "file"
"""The name of the behaviour whose vectors were read from a file, and of an edit that was."""


SLIDERS = "sliders"
"""The edit that ρ and α plan."""

ALWAYS = ("model", "behavior", "method", "score", "rho_attn", "rho_mlp", "edit")
"""What an address always says: a page without one may open with something else."""


class StateError(S2EError):
    """Something that the page, its address or its user gave and that cannot be used."""


@dataclass(frozen=True)
class State:
    """What a page shows. A site whose ρ is None is left out of the edit."""

    model: str = "demo"
    behavior: str = "safety"
    method: str = "difference-of-means"
    score: str = "cosine"
    rho_attn: float | None = None
    rho_mlp: float | None = None
    alpha: float = 0.05
    relative: bool = False
    layers: str = "all"
    edit: str = SLIDERS
    """``file``: the edit that the explorer was started with, as it is; else the one that ρ and α plan."""
    off: tuple[str, ...] = ()
    """Components that were switched off by hand."""
    at: str = ""
    """The component whose card is open."""
    prompt: str = ""
    strength: float = 0.5
    """Of steering."""
    tokens: int = 60
    colour: str = ""
    """What tokens are coloured by: ``mlp-3`` is what layer 3's MLP writes along v̂."""
    tab: str = "components"

    def __post_init__(self) -> None:
        checks = [
            (self.method in (*METHODS, FILE), f"there is no method {self.method!r}: {', '.join(METHODS)}."),
            (self.score in SCORES, f"there is no score {self.score!r}: {', '.join(SCORES)}."),
            (all(map(_positive, (self.rho_attn, self.rho_mlp))), "ρ must be a positive number."),
            (math.isfinite(self.alpha) and 0 <= self.alpha < 1, f"α must lie in [0, 1), and not be {self.alpha:g}."),
            (math.isfinite(self.strength), "the strength of steering must be a finite number."),
            (1 <= self.tokens <= MOST_TOKENS, f"an answer may have 1 to {MOST_TOKENS} tokens, and not {self.tokens}."),
            (self.tab in TABS, f"there is no tab {self.tab!r}: {', '.join(TABS)}."),
            (self.edit in (SLIDERS, FILE), f"edit={self.edit!r} is not known."),
        ]
        for good, message in checks:
            if not good:
                raise StateError(message)

    def to_query(self) -> str:
        """The state as the query of an address; what is at its default is left out, and so is a very long prompt."""
        left_out = {"prompt"} if len(self.prompt) > LONGEST_PROMPT else set()
        shown = {
            each.name: _written(getattr(self, each.name))
            for each in fields(self)
            if each.name in ALWAYS or (each.name not in left_out and getattr(self, each.name) != each.default)
        }
        return "?" + urlencode(shown)

    @classmethod
    def from_query(cls, query: str, default: "State | None" = None) -> "tuple[State, frozenset[str], list[str]]":
        """The state of an address, the names that it gives, and a message for each part that cannot be used (and is not).

        >>> state, given, messages = State.from_query("?alpha=0.5&rho_mlp=-1&nonsense=3")
        >>> state.alpha, sorted(given), len(messages)
        (0.5, ['alpha'], 2)
        """
        state, given, messages = default or cls(), set[str](), list[str]()
        known = {each.name for each in fields(cls)}
        for name, text in parse_qsl(query.removeprefix("?"), keep_blank_values=True, errors="replace", max_num_fields=None):
            if name not in known:
                messages.append(f"The address has a part {name[:40]!r} that means nothing here.")
                continue
            try:
                state = dataclasses.replace(state, **{name: _read(name, text)})
                given.add(name)
            except (S2EError, ValueError) as error:
                reason = str(error) if isinstance(error, S2EError) else f"{text[:40]!r} is no number."
                messages.append(f"The address's {name} was left out: {reason}")
        return state, frozenset(given), messages

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What scores and vectors depend on."""
        return self.model, self.behavior, self.method, self.score

    def with_setting(self, setting: Setting) -> "State":
        """This state with a sweep's setting: an edit's ρ, α, score and layers, or a strength of steering.

        Raises:
            StateError: for a setting that no slider can show, such as a random direction.
        """
        o = setting.options
        if setting.method == "edit" and o.get("scale") is None:
            layers = layers_text(o["layers"]) if o.get("layers") is not None else "all"
            names = ("score", "rho_attn", "rho_mlp", "alpha")
            chosen = {**{name: o[name] for name in names}, "relative": bool(o.get("relative")), "layers": layers}
            return dataclasses.replace(self, **chosen, edit=SLIDERS, off=())
        if setting.method == "steering":
            return dataclasses.replace(self, strength=float(o["strength"]))
        raise StateError(f"{setting.label} is no setting of the sliders: click an edit, or a point of the steering curve.")


def _positive(rho: float | None) -> bool:
    return rho is None or (math.isfinite(rho) and rho > 0)


def _written(value: Any) -> str:
    if value is None:
        return "off"
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return "1" if value else "0"
    return repr(value) if isinstance(value, float) else str(value)


def _read(name: str, text: str) -> Any:
    if name in ("rho_attn", "rho_mlp"):
        return None if text == "off" else float(text)
    if name in ("alpha", "strength"):
        return float(text)
    if name == "tokens":
        return int(text)
    if name == "relative":
        if text not in ("0", "1"):
            raise StateError("relative is 0 or 1.")
        return text == "1"
    if name == "off":
        return tuple(clean_label(each) for each in text.split(",") if each)
    return clean_label(text) if name == "at" and text else text


def clean_label(text: str) -> str:
    """A component's label in the form in which we write it.

    Raises:
        ModelError: if it is none.
    """
    return component_label(*parse_component(text))


def layers_text(layers: Sequence[int]) -> str:
    """Layers as short text.

    >>> layers_text([0, 1, 2, 5]), layers_text([3])
    ('0-2,5', '3')
    """
    runs: list[list[int]] = []
    for layer in sorted(set(layers)):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def from_page(values: Mapping[str, Any]) -> State:
    """The state that a page's controls hold; numbers come as text from some of them.

    Raises:
        StateError: if a field was emptied or holds no number.
    """
    found: dict[str, Any] = dict(values)
    for name in ("alpha", "strength", "tokens", "rho_attn", "rho_mlp"):
        value = found.get(name)
        if value is None and name.startswith("rho"):
            continue
        try:
            number = float(value)  # pyright: ignore[reportArgumentType]
            found[name] = int(number) if name == "tokens" else number
        except (TypeError, ValueError, OverflowError):
            raise StateError(f"{NAMES[name]} needs a number.") from None
    found["off"] = tuple(found.get("off") or ())
    for name in ("at", "prompt", "layers", "colour", "edit"):
        found[name] = found.get(name) or {"layers": "all", "edit": SLIDERS}.get(name, "")
    return State(**found)


NAMES = {
    "alpha": "α",
    "strength": "The strength of steering",
    "tokens": "The number of new tokens",
    "rho_attn": "ρ of the heads",
    "rho_mlp": "ρ of the neurons",
}
