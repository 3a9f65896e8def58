"""``run``: extract, attribute, choose an edit, apply it, measure, report."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from s2e_lens.activations import collect_means
from s2e_lens.attribution import Score, contrast, cosine
from s2e_lens.behaviors import Behavior, tokenize_examples
from s2e_lens.behaviors.behavior import read_neutral
from s2e_lens.directions import Method, find_directions, needs_examples
from s2e_lens.editor import EditBasis, Realised, edit_grid, edited, plan_to_dose, prepare_edit, strongest_first
from s2e_lens.editor.plan import Planner
from s2e_lens.errors import PlanError
from s2e_lens.evaluation.logprobs import Condition
from s2e_lens.models import LensModel
from s2e_lens.pipeline.choose import Choice, choose_edit
from s2e_lens.pipeline.measure import BASE, EDIT, Measurement, measure_conditions, tokenize_questions
from s2e_lens.results import Attribution, Directions, Edit
from s2e_lens.steering import steered

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
SAMPLES = 4
SAMPLE_TOKENS = 40


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
    measurements: list[Measurement]
    truncated: int
    """How many examples were cut to fit the context."""
    samples: list[dict[str, str]]
    """Greedy answers to held-out prompts: the prompt, and one answer per condition."""


def run(
    model: LensModel,
    behavior: Behavior,
    *,
    out: str | Path | None = None,
    planner: Planner | None = None,
    method: Method | None = None,
    scores: Sequence[Score] = (cosine, contrast),
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
            :func:`~s2e_lens.editor.edit_grid` on the validation examples (see :func:`~s2e_lens.pipeline.choose.choose_edit`);
            without validation examples the edit gets the dose of steering at strength 1 with α = 0.05.
        method: how directions are found; the difference of means by default.
        scores: what λ is a function of: settings of each are tried on the validation examples; a ``planner`` gets the first.
        strengths: of activation steering, to compare with.
        truncate: cut examples that are longer than the context.
        seed: of the bootstrap and in the provenance.
        checkpoint: file for unfinished means; with ``resume``, continue from it. Delete it when you have the outcome.
        resume: see ``checkpoint``.
        progress: show progress bars.

    Raises:
        ExamplesError: if there is nothing to measure on, or examples are bad.
        PlanError: for strengths that are missing or stand twice.
    """
    strengths = [float(strength) for strength in strengths]
    if not strengths or len({f"{strength:g}" for strength in strengths}) < len(strengths):
        raise PlanError(f"strengths of steering must be some different numbers, got {strengths}.")
    test = tokenize_questions(model, behavior, "test", truncate=truncate)
    train = tokenize_examples(model, behavior.train, truncate=truncate)
    neutral = behavior.neutral or read_neutral()
    means = collect_means(
        model, train, keep_examples=needs_examples(method), checkpoint=checkpoint, resume=resume, progress=progress, seed=seed
    )
    directions = find_directions(means, method=method)
    bases = [prepare_edit(model, directions, score=score) for score in scores]
    choice = None
    if planner is None and behavior.validation:
        validation = tokenize_questions(model, behavior, "validation", truncate=truncate)
        edits = strongest_first([edit for basis in bases for edit in edit_grid(basis)])
        choice = choose_edit(model, behavior, edits, validation, neutral=neutral, seed=seed, progress=progress)
    edit = choice.taken.edit if choice else (planner or plan_to_dose)(bases[0])
    score = edit.provenance.settings.get("score")  # a planner may bring an edit from elsewhere
    basis = next((each for each in bases if each.provenance.settings["score"] == score), bases[0])
    with edited(model, edit) as realised:
        pass
    # The weights were checked just above; force spares hashing them again for every batch and condition.
    conditions: dict[str, tuple[float | None, Condition]] = {
        BASE: (None, nullcontext),
        EDIT: (None, partial(edited, model, edit, force=True)),
    }
    for strength in strengths:
        conditions[f"steering {strength:g}"] = (strength, partial(steered, model, directions, strength, force=True))
    measured = measure_conditions(model, behavior, test, conditions, neutral=neutral, seed=seed, progress=progress)
    outcome = Outcome(
        model=model,
        behavior=behavior,
        directions=directions,
        attribution=Attribution(basis.attn.g, basis.mlp.g, str(basis.provenance.settings["score"]), basis.provenance),
        basis=basis,
        edit=edit,
        choice=choice,
        realised=realised,
        measurements=measured,
        truncated=sum(example.cut > 0 for example in train) + test.cut,
        samples=_sample(model, list(dict.fromkeys(e.input_ids[: e.start] for e in test.examples)), conditions),
    )
    if out is not None:
        from s2e_lens.pipeline.report import write_report

        write_report([outcome], out)
    return outcome


def _sample(
    model: LensModel, prompts: Sequence[tuple[int, ...]], conditions: dict[str, tuple[float | None, Condition]]
) -> list[dict[str, str]]:
    """Greedy answers to the first few prompts that leave room for one."""
    chosen = [prompt for prompt in prompts if len(prompt) + SAMPLE_TOKENS <= model.shapes.n_ctx][:SAMPLES]
    if not chosen:
        return []
    rows = [{"prompt": model.text.decode(prompt)} for prompt in chosen]
    for name, (_, make) in conditions.items():
        with make():
            answers = model.generate(chosen, max_new_tokens=SAMPLE_TOKENS)
        for row, answer in zip(rows, answers, strict=True):
            row[name] = model.text.decode(answer)
    return rows
