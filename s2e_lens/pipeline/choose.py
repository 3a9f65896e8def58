"""Choosing an edit on the validation split: the best attribute among those that keep the utility."""

from collections.abc import Sequence
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
from s2e_lens.evaluation.sweep import TOLERANCE
from s2e_lens.evaluation.tradeoff import ROUNDING
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
    tolerance: float


def choose_edit(
    model: LensModel,
    behavior: Behavior,
    edits: Sequence[Edit],
    questions: Questions,
    *,
    neutral: Sequence[str],
    tolerance: float = TOLERANCE,
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
        tolerance: how much utility may be lost: accuracy (0.03 is 3 points), or nats per token of neutral text.
        progress: show a progress bar.

    Raises:
        PlanError: if there is no edit to choose from.
    """
    if not edits:
        raise PlanError("there is no edit to choose from.")
    sign = 1 if questions.attribute.higher_is_better else -1
    text = None if questions.tasks else NeutralText(model, neutral)

    def attribute(name: str) -> float:
        return float(measure_items(questions.attribute, model, questions.examples, name, questions.seed).mean())

    base_attribute = attribute("the unedited model")
    base_utility = _utility(model, questions, text)
    enough = base_utility - tolerance - ROUNDING
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
                utility = _utility(model, questions, text, enough=enough)
            kept = utility if utility >= enough else None
        trials.append(Trial(edits[i], attributes[i], kept))
        taken = trials[-1] if kept is not None else taken
    if taken is None:
        taken = next(trial for trial in trials if trial.edit is edits[-1])
    return Choice(taken, tuple(trials), base_attribute, base_utility, tolerance)


def _entered(model: LensModel, edit: Edit) -> AbstractContextManager[Any]:
    """The model under an edit, in the form in which it is reported."""
    return Condition(edit_effects(edit), partial(edited, model, edit, force=True)).entered(model)


def _utility(model: LensModel, questions: Questions, text: NeutralText | None, *, enough: float | None = None) -> float:
    """Mean accuracy over the tasks, or minus the log perplexity: higher is better.

    With ``enough``, tasks are measured only until it is sure that the mean stays below that; an upper bound is returned then.
    """
    if text is not None:
        losses = sum(float(window.score(model, "an edit")[0].sum()) for window in text.windows())
        return -losses / float(text.tokens.sum())
    number = len(questions.tasks)
    total = 0.0
    bound = 1.0
    shares = True  # a metric on another scale than 0 to 1 has no bound
    for done, (task, items) in enumerate(questions.tasks, start=1):
        values = measure_items(task.metric, model, items, "an edit", questions.seed)
        total += float(values.mean())
        shares = shares and bool((values <= 1).all())
        bound = (total + number - done) / number
        if enough is not None and shares and bound < enough:
            break
    return bound
