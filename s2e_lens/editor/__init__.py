"""Edits: plan them (pure), apply and revert them bit for bit, or run them as hooks."""

from s2e_lens.editor.apply import Realised, edit_as_hooks, edited
from s2e_lens.editor.plan import (
    EditBasis,
    elastic_net,
    leave_out,
    plan_edit,
    plan_to_count,
    plan_to_dose,
    plan_to_gain,
    prepare_edit,
    strongest_first,
)

__all__ = [
    "EditBasis",
    "Realised",
    "edit_as_hooks",
    "edited",
    "elastic_net",
    "leave_out",
    "plan_edit",
    "plan_to_count",
    "plan_to_dose",
    "plan_to_gain",
    "prepare_edit",
    "strongest_first",
]
