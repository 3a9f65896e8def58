"""``run``: extract, attribute, plan, edit, measure, report."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from s2e_lens.activations import collect_means
from s2e_lens.attribution import cosine
from s2e_lens.behaviors import Behavior, tokenize_examples
from s2e_lens.behaviors.behavior import read_neutral
from s2e_lens.directions import Method, find_directions, needs_examples
from s2e_lens.editor import EditBasis, Realised, edited, plan_to_dose, prepare_edit
from s2e_lens.editor.plan import Planner
from s2e_lens.errors import ExamplesError, PlanError
from s2e_lens.evaluation.logprobs import Condition
from s2e_lens.models import LensModel
from s2e_lens.pipeline.measure import BASE, Measurement, measure_conditions
from s2e_lens.results import Attribution, Directions, Edit
from s2e_lens.steering import steered

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
    planner: Planner = plan_to_dose,
    method: Method | None = None,
    strengths: Sequence[float] = (0.5, 1.0, 2.0),
    truncate: bool = False,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Outcome:
    """Extract a direction from the training examples, plan and apply an edit, and measure it on the test examples.

    Args:
        model: from :func:`s2e_lens.load_model`.
        behavior: examples in splits; its metrics, or the margin of positive over negative responses and perplexity.
        out: a folder for the report (see :func:`~s2e_lens.pipeline.report.write_report`); none is written without it.
        planner: makes the edit from an :class:`~s2e_lens.editor.EditBasis`; the default takes the dose of steering at
            strength 1 with α = 0.05.
        method: how directions are found; the difference of means by default.
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
    if not behavior.test:
        raise ExamplesError(f"{behavior.name} has no test examples: nothing was set aside to measure on.")
    train = tokenize_examples(model, behavior.train, truncate=truncate)
    test = tokenize_examples(model, behavior.test, truncate=truncate)
    means = collect_means(
        model, train, keep_examples=needs_examples(method), checkpoint=checkpoint, resume=resume, progress=progress, seed=seed
    )
    directions = find_directions(means, method=method)
    basis = prepare_edit(model, directions, score=cosine)
    edit = planner(basis)
    with edited(model, edit) as realised:
        pass
    # The weights were checked just above; force spares hashing them again for every batch and condition.
    conditions: dict[str, tuple[float | None, Condition]] = {
        BASE: (None, nullcontext),
        "edit": (None, partial(edited, model, edit, force=True)),
    }
    for strength in strengths:
        conditions[f"steering {strength:g}"] = (strength, partial(steered, model, directions, strength, force=True))
    neutral = behavior.neutral or read_neutral()
    measured = measure_conditions(model, behavior, test, conditions, neutral=neutral, seed=seed, progress=progress)
    outcome = Outcome(
        model=model,
        behavior=behavior,
        directions=directions,
        attribution=Attribution(basis.attn.g, basis.mlp.g, cosine.__name__, basis.provenance),
        basis=basis,
        edit=edit,
        realised=realised,
        measurements=measured,
        truncated=sum(example.cut > 0 for example in (*train, *test)),
        samples=_sample(model, list(dict.fromkeys(e.input_ids[: e.start] for e in test)), conditions),
    )
    if out is not None:
        from s2e_lens.pipeline.report import write_report

        write_report(outcome, out)
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
