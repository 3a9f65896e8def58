"""The parity certificate: how far apart the forms of one edit are, and whether that is rounding."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

FORMAT = 1
"""Version of the JSON layout."""


@dataclass(frozen=True)
class Tolerance:
    """What counts as rounding. Both limits must be kept."""

    logits: float | None
    """The largest difference of a logit, or None: no absolute limit."""
    relative: float
    """The largest root mean square of the differences, over that of the change which the edit itself makes."""

    @classmethod
    def of(cls, dtype: torch.dtype) -> "Tolerance":
        """The limits of a dtype.

        In float32 (and float64, whose hook form adds in float32) every form computes the same sums in another order. On random
        models of ten families and on two small trained ones the logits differed by up to 2.5e-5, and by up to 6e-6 of the
        edit's change; 1e-3 and 1 % leave room for depth and for larger logits.

        In bfloat16 and float16 the forms are *not* the same function: folding rounds W + ΔW once, and hooks and LoRA leave W
        alone and round what they add to each output. No absolute limit would mean anything then: a form holds if it differs by
        at most a quarter of what the edit changes (measured: up to 2 % for edits of full size, 14 % for a tenth of one). A
        form that loses a small part of the edit is not told from rounding by that; float32 tells.
        """
        exact = dtype in (torch.float32, torch.float64)
        return cls(logits=1e-3, relative=0.01) if exact else cls(logits=None, relative=0.25)


@dataclass(frozen=True)
class Fork:
    """Where a greedy continuation leaves the reference's."""

    prompt: int
    """Index of the prompt."""
    position: int
    """Index of the first token that differs, 0 being the first new one."""
    margin: float
    """The reference's largest logit there minus its second largest: a tie within rounding has a small one."""


@dataclass(frozen=True)
class Difference:
    """How far one form is from the reference."""

    max_logit: float
    """max |logit - reference's| over all positions of all prompts, in float32."""
    rms_logit: float
    """Root mean square of the same differences."""
    max_kl: float
    """Largest KL(reference ‖ form) at a position, in nats."""
    mean_kl: float
    """Mean of the same over all positions of all prompts."""
    greedy_agreement: float
    """Share of the prompts whose greedy continuation is the same, token by token."""
    forks: tuple[Fork, ...] = ()
    """Where the others leave it."""
    same_weights: bool | None = None
    """Whether a reloaded checkpoint has the edited weights, bit for bit; None where this was not asked."""

    @property
    def largest_margin(self) -> float | None:
        """The largest margin at which a continuation leaves the reference's, or None where none does."""
        return max((fork.margin for fork in self.forks), default=None)


@dataclass(frozen=True)
class Row:
    """One form of the edit, compared with the reference."""

    form: str
    difference: Difference | None
    """None where the form was skipped."""
    relative: float | None
    """rms_logit over that of the unedited model; None where that is 0."""
    holds: bool | None
    """None where the form was skipped."""
    reason: str
    """Why it was skipped or does not hold; empty where it holds."""


def judge(form: str, difference: Difference, unedited: Difference, tolerance: Tolerance) -> Row:
    """Whether a form is the reference to rounding.

    It is if both limits of the tolerance are kept, if a reloaded checkpoint has the very weights, and if no greedy continuation
    leaves the reference's where its margin is more than rounding can bridge: 2 x the limit on logits, since two logits may
    move towards each other, or without such a limit 2 x the form's own largest difference.
    """
    relative = difference.rms_logit / unedited.rms_logit if unedited.rms_logit else None
    bridged = 2 * (difference.max_logit if tolerance.logits is None else tolerance.logits)
    reasons = []
    if difference.same_weights is False:
        reasons.append("its weights are not the edited ones")
    if tolerance.logits is not None and difference.max_logit > tolerance.logits:
        reasons.append(f"a logit differs by {difference.max_logit:.3g} (tolerance {tolerance.logits:g})")
    if relative is not None and relative > tolerance.relative:
        reasons.append(f"it differs by {relative:.1%} of what the edit changes (tolerance {tolerance.relative:.0%})")
    if (difference.largest_margin or 0) > bridged:
        reasons.append(f"a greedy token differs where the margin is {difference.largest_margin:.3g} (rounding: {bridged:.3g})")
    return Row(form, difference, relative, not reasons, "; ".join(reasons))


def skipped(form: str, reason: str) -> Row:
    """The row of a form that was not compared."""
    return Row(form, None, None, None, reason)


@dataclass(frozen=True)
class Certificate:
    """The forms of one edit, compared on the same prompts."""

    rows: tuple[Row, ...]
    unedited: Difference
    """The negative control: how far the model without the edit is from the reference."""
    tolerance: Tolerance
    restored: bool
    """Whether the model's weights were afterwards what they had been before, by their hash."""
    model: str
    source: str
    revision: str | None
    weight_hash: str
    dtype: str
    device: str
    edit: Mapping[str, Any]
    """Settings and counts of the edit."""
    edit_hash: str
    realised: Mapping[str, float]
    """How much of the planned update the dtype took up: its fraction, and the relative error."""
    prompts: int
    positions: int
    """Tokens of all prompts."""
    prompts_hash: str
    max_new_tokens: int
    versions: Mapping[str, str]
    command: str | None = None
    reference: str = "weights"

    @property
    def tells(self) -> bool:
        """Whether these prompts can tell the edited model from the unedited one."""
        return self.unedited.max_logit > (self.tolerance.logits or 0)

    @property
    def holds(self) -> bool:
        """True if these prompts can tell, a form was compared, every compared form holds, and the model is as before."""
        compared = [row.holds for row in self.rows if row.holds is not None]
        return self.tells and self.restored and bool(compared) and all(compared)

    @property
    def verdict(self) -> str:
        """One sentence: holds, or why it does not."""
        failed = [row.form for row in self.rows if row.holds is False]
        if self.holds:
            held = [row.form for row in self.rows if row.holds]
            return f"Holds, to rounding: {', '.join(held)} and the edited weights give the same logits."
        if not self.restored:
            return "Does not hold: the model's weights are not what they were before. Load it again."
        if not self.tells:
            return (
                "Does not hold: without the edit the logits are the same within the tolerance, so these prompts cannot tell "
                "whether it was applied. Give other prompts, or a stronger edit."
            )
        if not failed:
            return "Does not hold: no form was compared with the edited weights."
        hint = (
            ""
            if self.tolerance.logits is not None
            else f" In {self.dtype} a weak edit is lost in rounding: plan and verify it in float32 to decide."
        )
        return f"Does not hold: {', '.join(failed)}.{hint}"

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON; :meth:`from_json` reads it."""
        fields = {
            **dataclasses.asdict(self),
            "edit": dict(self.edit),
            "realised": dict(self.realised),
            "versions": dict(self.versions),
            "rows": [_row_to_json(row) for row in self.rows],
            "unedited": _difference_to_json(self.unedited),
        }
        return {"format": FORMAT, "holds": self.holds, "verdict": self.verdict, **fields}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "Certificate":
        """A certificate from what :meth:`to_json` made."""
        fields = {field.name: table[field.name] for field in dataclasses.fields(cls)}
        rows = tuple(Row(**{**row, "difference": _difference_from_json(row["difference"])}) for row in table["rows"])
        unedited, tolerance = _difference_from_json(table["unedited"]), Tolerance(**table["tolerance"])
        return cls(**{**fields, "rows": rows, "unedited": unedited, "tolerance": tolerance})


def _row_to_json(row: Row) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "difference": row.difference and _difference_to_json(row.difference)}


def _difference_to_json(difference: Difference) -> dict[str, Any]:
    return {**dataclasses.asdict(difference), "forks": [dataclasses.asdict(fork) for fork in difference.forks]}


def _difference_from_json(table: Mapping[str, Any] | None) -> Difference | None:
    return None if table is None else Difference(**{**table, "forks": tuple(Fork(**fork) for fork in table["forks"])})
