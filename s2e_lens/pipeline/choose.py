"""Choosing an edit on the validation split: the best attribute among those that keep the utility."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from s2e_lens.behaviors import Behavior
from s2e_lens.editor import edited
from s2e_lens.editor.apply import edit_effects
from s2e_lens.errors import PlanError
from s2e_lens.evaluation import Condition, NeutralText, Questions, measure_items
from s2e_lens.evaluation.tradeoff import ROUNDING, Tolerance
from s2e_lens.models import LensModel
from s2e_lens.results import Edit


@dataclass(frozen=True, eq=False)
class Trial:
    """One edit on the validation split."""

    edit: Edit
    attribute: float
    utility: float | None
    """Mean over the tasks, or minus the log perplexity; None where it is beyond the tolerance, or was not measured."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What was tried on the validation split, and what was taken."""

    taken: Trial
    trials: tuple[Trial, ...]
    """Best attribute first."""
    base_attribute: float
    base_utility: float
    tolerance: Tolerance


def choose_edit(
    model: LensModel,
    behavior: Behavior,
    edits: Sequence[Edit],
    questions: Questions,
    *,
    neutral: Sequence[str],
    tolerance: Tolerance | None = None,
    progress: bool = False,
) -> Choice:
    """Measure the attribute of every edit, then utility from the best one on, and take the first that keeps it.

    It takes what a whole sweep would, ties apart, for less time: the utility of most edits is never measured. For the whole
    trade-off on the validation split use a :class:`~s2e_lens.evaluation.Sweep`.

    If none that improves the attribute does, the last in ``edits`` is taken: put the weakest last.

    Args:
        model: the model that the edits were made for.
        behavior: its attribute (or the margin) is what should improve.
        edits: candidates, such as those of a :class:`~s2e_lens.evaluation.Grid`.
        questions: of the validation split.
        neutral: text for perplexity, the utility of a behaviour without tasks.
        tolerance: how much utility may be lost, 4 points of the mean and 10 of any task by default.
        progress: show a progress bar.

    Raises:
        PlanError: if there is no edit to choose from.
    """
    if not edits:
        raise PlanError("there is no edit to choose from.")
    tolerance = tolerance or Tolerance()
    sign = 1 if questions.attribute.higher_is_better else -1
    text = None if questions.tasks else NeutralText(model, neutral)

    def attribute(name: str) -> float:
        return float(measure_items(questions.attribute, model, questions.examples, name, questions.seed).mean())

    base_attribute = attribute("the unedited model")
    base_utility, base_tasks = _utility(model, questions, text)
    enough = base_utility - tolerance.utility - ROUNDING
    least = {name: value - tolerance.task - ROUNDING for name, value in base_tasks.items()}
    attributes = []
    for edit in tqdm(edits, desc=f"{behavior.name}: choosing", unit="setting", disable=not progress):
        with _entered(model, edit):
            attributes.append(attribute("an edit"))
    trials: list[Trial] = []
    taken = None
    for i in sorted(range(len(edits)), key=lambda i: -sign * attributes[i]):
        kept = None
        if taken is None and sign * (attributes[i] - base_attribute) > 0:
            with _entered(model, edits[i]):
                utility, _ = _utility(model, questions, text, enough=enough, least=least)
            kept = utility if utility >= enough else None
        trials.append(Trial(edits[i], attributes[i], kept))
        taken = trials[-1] if kept is not None else taken
    if taken is None:
        taken = next(trial for trial in trials if trial.edit is edits[-1])
    return Choice(taken, tuple(trials), base_attribute, base_utility, tolerance)


def _entered(model: LensModel, edit: Edit) -> AbstractContextManager[Any]:
    """The model under an edit, in the form in which it is reported."""
    return Condition(edit_effects(edit), partial(edited, model, edit, force=True)).entered(model)


def _utility(
    model: LensModel,
    questions: Questions,
    text: NeutralText | None,
    *,
    enough: float | None = None,
    least: Mapping[str, float] | None = None,
) -> tuple[float, dict[str, float]]:
    """Mean accuracy over the tasks, or minus the log perplexity (higher is better), and the accuracy of each task.

    With ``enough`` and ``least``, tasks are measured only until it is sure that the mean stays below ``enough``, or a task
    below its ``least``; an upper bound, or minus infinity, is returned then.
    """
    if text is not None:
        losses = sum(float(window.score(model, "an edit")[0].sum()) for window in text.windows())
        return -losses / float(text.tokens.sum()), {}
    number = len(questions.tasks)
    found: dict[str, float] = {}
    bound = 1.0
    shares = True  # a metric on another scale than 0 to 1 has no bound
    for done, (task, items) in enumerate(questions.tasks, start=1):
        values = measure_items(task.metric, model, items, "an edit", questions.seed)
        found[task.name] = float(values.mean())
        if least is not None and found[task.name] < least[task.name]:
            return -math.inf, found
        shares = shares and bool((values <= 1).all())
        bound = (sum(found.values()) + number - done) / number
        if enough is not None and shares and bound < enough:
            break
    return bound, found
