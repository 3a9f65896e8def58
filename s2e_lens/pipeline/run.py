"""``run``: extract, attribute, choose an edit, apply it, measure it against steering and controls, report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from s2e_lens.activations import collect_means
from s2e_lens.attribution import SCORES
from s2e_lens.behaviors import Behavior, tokenize_examples
from s2e_lens.behaviors.behavior import read_neutral
from s2e_lens.directions import Method, find_directions, needs_examples
from s2e_lens.editor import EditBasis, Realised, edited, plan_to_dose
from s2e_lens.editor.apply import edit_effects
from s2e_lens.editor.plan import Planner
from s2e_lens.evaluation import (
    Bench,
    Comparison,
    Condition,
    Grid,
    Meter,
    Record,
    Setting,
    compare,
    steering_settings,
    tokenize_questions,
)
from s2e_lens.evaluation.comparison import Point
from s2e_lens.evaluation.measure import left_out
from s2e_lens.evaluation.settings import RANDOM_COMPONENTS
from s2e_lens.models import LensModel
from s2e_lens.pipeline.choose import Choice, choose_edit
from s2e_lens.results import Attribution, Directions, Edit
from s2e_lens.steering import random_components

STRENGTHS = (0.1, 0.25, 0.5, 1.0, 1.5)
"""The curve joins its points by straight lines, and bends most near the unedited model: a coarse one there flatters the edit."""
MULTIPLES = (0.5,)
"""The edit is also measured with its λ multiplied by these."""
CONTROL_SEEDS = (0,)
GRID = Grid((0.5,), (None, 2.0, 4.0), (0.05, 0.5), by="gain", scores=("cosine", "contrast"), layers=("all", "0%-67%", "late"))
"""Edits that are tried on the validation split: 36; a sweep tries more."""
SAMPLES = 4
SAMPLE_TOKENS = 40
BASE_LABEL = "unedited"


@dataclass(frozen=True, eq=False)
class Outcome:
    """Everything that one run found."""

    model: LensModel
    behavior: Behavior
    directions: Directions
    attribution: Attribution
    basis: EditBasis
    edit: Edit
    choice: Choice | None
    """What was tried on the validation split; None where the edit was planned without looking."""
    realised: Realised
    comparison: Comparison
    """Everything that was measured on the test split."""
    truncated: int
    """How many examples were cut to fit the context."""
    samples: list[dict[str, str]]
    """Greedy answers to held-out prompts: the prompt, and one answer per condition."""

    @property
    def points(self) -> list[Point]:
        """The unedited model, the edit, its multiples, and steering, weakest first."""
        found = self.comparison
        return [found.base, found.edit, *(each for each in found.edits if each is not found.edit), *found.curve]


def run(
    model: LensModel,
    behavior: Behavior,
    *,
    out: str | Path | None = None,
    planner: Planner | None = None,
    method: Method | None = None,
    grid: Grid = GRID,
    strengths: Sequence[float] = STRENGTHS,
    truncate: bool = False,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Outcome:
    """Extract a direction from the training examples, choose and apply an edit, and measure it on the test examples.

    Args:
        model: from :func:`s2e_lens.load_model`.
        behavior: examples in splits; its metrics, or the margin of positive over negative responses and perplexity.
        out: a folder for the report (see :func:`~s2e_lens.pipeline.report.write_report`); none is written without it.
        planner: makes the edit from an :class:`~s2e_lens.editor.EditBasis`. By default ρ and α are chosen from
            ``grid`` on the validation examples (see :func:`~s2e_lens.pipeline.choose.choose_edit`);
            without validation examples the edit gets the dose of steering at strength 1 with α = 0.05.
        method: how directions are found; the difference of means by default.
        grid: of edits to choose from; a ``planner`` gets the basis of its first score.
        strengths: of activation steering, to compare with.
        truncate: cut examples that are longer than the context.
        seed: of the bootstrap and in the provenance.
        checkpoint: file for unfinished means; with ``resume``, continue from it. Delete it when you have the outcome.
        resume: see ``checkpoint``.
        progress: show progress bars.

    Raises:
        ExamplesError: if there is nothing to measure on, or examples are bad.
        PlanError: for strengths that are missing or stand twice.
        MismatchError: if the model's weights are not those that a planner's edit was made for.
    """
    steering = steering_settings(list(strengths))
    test = tokenize_questions(model, behavior, "test", truncate=truncate, seed=seed)
    train = tokenize_examples(model, behavior.train, truncate=truncate)
    neutral = behavior.neutral or read_neutral()
    means = collect_means(
        model, train, keep_examples=needs_examples(method), checkpoint=checkpoint, resume=resume, progress=progress, seed=seed
    )
    bench = Bench(model, find_directions(means, method=method), system=behavior.system)
    choice = None
    if planner is None and behavior.validation:
        validation = tokenize_questions(model, behavior, "validation", truncate=truncate, seed=seed)
        edits = [edit for setting in grid.settings(bench) if (edit := bench.edit(setting)) is not None]
        choice = choose_edit(model, behavior, edits, validation, neutral=neutral, progress=progress)
    edit = choice.taken.edit if choice else (planner or plan_to_dose)(bench.basis(grid.scores[0]))
    score = edit.provenance.settings.get("score")  # a planner may bring an edit from elsewhere
    basis = bench.basis(score if score in SCORES else grid.scores[0])
    with edited(model, edit) as realised:
        pass
    taken = Setting.of_edit(edit)
    conditions: dict[Setting, Condition] = {Setting("base"): Condition(), taken: _condition(model, edit)}
    for multiple in MULTIPLES:
        conditions[Setting.of_edit(multiple * edit)] = _condition(model, multiple * edit)
    conditions |= {each: bench.condition(each) for each in steering}
    if taken.options.get("layers"):
        alike = steering_settings(list(strengths), layers=taken.options["layers"])
        conditions |= {each: bench.condition(each) for each in alike}
    # One condition at a time: which way is faster is a matter of chance, and rounds otherwise; a report repeats to the byte.
    meter = Meter(model, test, neutral, share=False)
    records = _measure(meter, conditions, behavior.name, progress=progress)
    controls: dict[Setting, Condition] = {}
    strength = _as_far(records, taken)
    for each in CONTROL_SEEDS:
        for how, towards in zip(RANDOM_COMPONENTS, (basis, None), strict=True):
            shuffled = random_components(edit, towards, seed=seed + each)
            controls[Setting(how, {**taken.options, "seed": seed + each})] = _condition(model, shuffled)
        aside = Setting("random direction", {"strength": strength, "seed": seed + each})
        controls[aside] = bench.condition(aside)
    records += _measure(meter, controls, f"{behavior.name}, controls", progress=progress)
    if behavior.system is not None and model.text.has_chat_template:
        told = Setting("system prompt", {"system": behavior.system})
        with left_out("the system prompt"):
            asked = tokenize_questions(model, behavior, "test", system=behavior.system, truncate=truncate, seed=seed)
            with_prompt = Meter(model, asked, meter.text, share=False)
            records += _measure(with_prompt, {told: Condition()}, behavior.name, progress=progress)
    comparison = compare(
        records,
        taken,
        higher_is_better=test.attribute.higher_is_better,
        tried=len(choice.trials) if choice else 1,
        seed=seed,
    )
    shown = {BASE_LABEL: Condition(), "edit": conditions[taken], **{each.label: conditions[each] for each in steering}}
    outcome = Outcome(
        model=model,
        behavior=behavior,
        directions=bench.directions,
        attribution=Attribution(basis.attn.g, basis.mlp.g, str(basis.provenance.settings["score"]), basis.provenance),
        basis=basis,
        edit=edit,
        choice=choice,
        realised=realised,
        comparison=comparison,
        truncated=sum(example.cut > 0 for example in train) + test.cut,
        samples=_sample(model, list(dict.fromkeys(e.input_ids[: e.start] for e in test.examples)), shown),
    )
    if out is not None:
        from s2e_lens.pipeline.report import write_report

        write_report([outcome], out)
    return outcome


def _as_far(records: Sequence[Record], edit: Setting) -> float:
    """The strength of steering that is about as far from the unedited model as the edit, in KL: what random directions get."""
    kl = next(each.items.kl for each in records if each.setting is edit)
    published = [each for each in records if each.setting.method == "steering" and each.setting.everywhere]
    steering = {float(each.setting.strength or 0.0): each.items.kl for each in published}
    return min(steering, key=lambda strength: abs(steering[strength] - kl))


def _condition(model: LensModel, edit: Edit) -> Condition:
    # The weights were hashed when the edit was planned; force spares doing so at every entry.
    return Condition(edit_effects(edit), partial(edited, model, edit, force=True))


def _measure(meter: Meter, conditions: Mapping[Setting, Condition], name: str, *, progress: bool) -> list[Record]:
    labels = [each.label for each in conditions]
    measured = tqdm(
        meter.measure(list(conditions.values()), labels=labels),
        total=len(conditions),
        desc=f"{name}: measuring",
        unit="condition",
        disable=not progress,
    )
    return [Record(setting, "test", {}, items) for setting, items in zip(conditions, measured, strict=True)]


def _sample(model: LensModel, prompts: Sequence[tuple[int, ...]], conditions: Mapping[str, Condition]) -> list[dict[str, str]]:
    """Greedy answers to the first few prompts that leave room for one."""
    chosen = [prompt for prompt in prompts if len(prompt) + SAMPLE_TOKENS <= model.shapes.n_ctx][:SAMPLES]
    if not chosen:
        return []
    rows = [{"prompt": model.text.decode(prompt)} for prompt in chosen]
    for name, condition in conditions.items():
        with condition.entered(model):
            answers = model.generate(chosen, max_new_tokens=SAMPLE_TOKENS)
        for row, answer in zip(rows, answers, strict=True):
            row[name] = model.text.decode(answer)
    return rows
