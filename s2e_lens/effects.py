"""What a condition does to a running model: an affine change of a site's output, alone or row by row in one batch.

At each place (site, layer), with x what enters the projection and y its raw output::

    y <- y + Σ_t (x · reads[t]) writes[t] + adds          an edit (reads, writes) and activation addition (adds)
    y <- y - Σ_r (y · removes[r]) removes[r]              then, directional ablation (removes: orthonormal rows)

Rows of one batch can carry different effects, so that many conditions share a forward pass.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from s2e_lens.errors import PlanError
from s2e_lens.models import Batch, LensModel, SiteFn
from s2e_lens.precision import exact
from s2e_lens.results import Place

Positions = Literal["all", "prompt", "response"]
"""``response``: every position that predicts a response token, from the prompt's last one on; ``prompt``: those before it."""

POSITIONS: tuple[Positions, ...] = get_args(Positions)


@dataclass(frozen=True, eq=False)
class Effect:
    """What happens at one place; each part may be missing."""

    reads: Float[Tensor, "term d_in_total"] | None = None
    writes: Float[Tensor, "term d_model"] | None = None
    adds: Float[Tensor, " d_model"] | None = None
    removes: Float[Tensor, "direction d_model"] | None = None


@dataclass(frozen=True, eq=False)
class Intervention:
    """Effects at some places of a model, at all positions or at some. Without effects, the model as it is."""

    effects: Mapping[Place, Effect] = field(default_factory=dict)
    positions: Positions = "all"

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise PlanError(f"positions are one of {', '.join(POSITIONS)}; got {self.positions!r}.")


def intervene(model: LensModel, intervention: Intervention, *, on_twin: bool = False) -> AbstractContextManager[None]:
    """Run the model with an intervention inside the ``with`` block; blocks stack, in the order they were entered.

    ``on_twin`` uses the plain twin where there is one: faster, and nothing else can be intercepted meanwhile.
    """
    return Rows(model, [intervention]).applied(on_twin=on_twin)


class Rows:
    """Several interventions for one batch: ``which`` says which one each sequence of a call is under (None: all the first)."""

    def __init__(self, model: LensModel, interventions: Sequence[Intervention]):
        self.model = model
        self.which: Int[Tensor, " sequence"] | None = None
        self._positions = [each.positions for each in interventions]
        places = list(dict.fromkeys(place for each in interventions for place in each.effects))
        self._stacks = {place: _stack([each.effects.get(place, Effect()) for each in interventions]) for place in places}

    def applied(self, *, on_twin: bool = False) -> AbstractContextManager[None]:
        """Hooks at every place that some intervention changes."""
        fns = {place: self._hook(stack) for place, stack in self._stacks.items()}
        return self.model.intercept_twin(fns) if on_twin else self.model.intercept(fns)

    def _hook(self, stack: "_Stack") -> SiteFn:
        on = stack

        def change(
            x: Float[Tensor, "batch pos component d_in"], y: Float[Tensor, "batch pos d_model"]
        ) -> Float[Tensor, "batch pos d_model"]:
            nonlocal on
            if on.device != y.device:  # a sharded model's layers lie on several devices
                on = on.to(y.device)
            batch = self.model.batch or Batch(torch.arange(len(y)), None)
            rows = None if self.which is None else self.which[batch.rows.cpu()].to(y.device)
            with exact(x.device):
                wide = y.float()
                new = on.apply(x.flatten(-2).float() if on.reads is not None else None, wide, rows)
                where = self._where(batch, rows, wide)
                if where is not None:
                    new = torch.where(where[..., None], new, wide)
            return new.to(y.dtype)

        return change

    def _where(self, batch: Batch, rows: Int[Tensor, " batch"] | None, y: Float[Tensor, "batch pos d_model"]) -> Tensor | None:
        """Which positions change, as [batch, pos]; None for all."""
        if all(each == "all" for each in self._positions):
            return None
        position = torch.arange(y.shape[1], device=y.device)
        # While generating, the last position of every forward pass predicts the next token of the response.
        starts = torch.full((len(y),), y.shape[1]) if batch.starts is None else batch.starts
        response = position >= starts.to(y.device)[:, None] - 1
        codes = torch.tensor([POSITIONS.index(each) for each in self._positions], device=y.device)
        code = codes[torch.zeros(len(y), dtype=torch.long, device=y.device) if rows is None else rows][:, None]
        return (code == 0) | ((code == 1) & ~response) | ((code == 2) & response)


@dataclass(frozen=True, eq=False)
class _Stack:
    """The effects of several interventions at one place, padded with zeros to one number of terms."""

    reads: Float[Tensor, "condition d_in_total term"] | None
    writes: Float[Tensor, "condition term d_model"] | None
    adds: Float[Tensor, "condition 1 d_model"] | None
    removes: Float[Tensor, "condition direction d_model"] | None

    @property
    def device(self) -> torch.device:
        return next(each.device for each in (self.writes, self.adds, self.removes, torch.empty(0)) if each is not None)

    def to(self, device: torch.device) -> "_Stack":
        parts = (self.reads, self.writes, self.adds, self.removes)
        return _Stack(*(None if each is None else each.to(device) for each in parts))

    def apply(
        self,
        x: Float[Tensor, "batch pos d_in_total"] | None,
        y: Float[Tensor, "batch pos d_model"],
        rows: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        def of(stacked: Tensor) -> Tensor:
            return stacked[0] if rows is None else stacked[rows]

        if x is not None and self.reads is not None and self.writes is not None:
            y = y + (x @ of(self.reads)) @ of(self.writes)
        if self.adds is not None:
            y = y + of(self.adds)
        if self.removes is not None:
            removed = of(self.removes)
            y = y - (y @ removed.transpose(-1, -2)) @ removed
        return y


def _stack(effects: Sequence[Effect]) -> _Stack:
    reads = _padded([each.reads for each in effects])
    adds = _padded([None if each.adds is None else each.adds[None] for each in effects])
    return _Stack(
        reads=None if reads is None else reads.transpose(1, 2).contiguous(),
        writes=_padded([each.writes for each in effects]),
        adds=adds,
        removes=_padded([each.removes for each in effects]),
    )


def _padded(parts: Sequence[Tensor | None]) -> Float[Tensor, "condition row column"] | None:
    """Matrices of one width, stacked; None where there is none at all."""
    present = [each for each in parts if each is not None and len(each)]
    if not present:
        return None
    stacked = present[0].new_zeros(len(parts), max(map(len, present)), present[0].shape[1], dtype=torch.float32)
    for row, each in enumerate(parts):
        if each is not None:
            stacked[row, : len(each)] = each
    return stacked
