"""Measure the demo model and write the numbers into its card: ``python tests/benchmarks/demo_card.py [--model DIR]``.

For each behaviour: the steering curve, and the chosen edit at several multiples of its λ, all on the test split.
"""

import argparse
from functools import partial

import torch

import s2e_lens
from s2e_lens import edited, load_model
from s2e_lens.behaviors import load_behavior, shipped_behaviors
from s2e_lens.demo import MODEL_FOLDER
from s2e_lens.evaluation import Estimate
from s2e_lens.evaluation.logprobs import Condition
from s2e_lens.pipeline.measure import Measurement, measure_conditions, tokenize_questions
from s2e_lens.pipeline.run import Outcome, run

CARD = MODEL_FOLDER.parent / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5)
MULTIPLES = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)


def shown(value: Estimate, digits: int = 2) -> str:
    """A value with its interval."""
    interval = "" if value.low is None else f" [{value.low:.{digits}f}, {value.high:.{digits}f}]"
    return f"{value.value:.{digits}f}{interval}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def curve(outcome: Outcome, more: list[Measurement]) -> str:
    """Attribute and utility under each condition."""
    digits = 2 if outcome.measurements[0].attribute.value < 10 else 1
    rows = [
        ["unedited" if each.condition == "base" else each.condition, shown(each.attribute, digits)]
        + [f"{other.value:.2f}" for other in each.also.values()]
        + [shown(each.utility, 3), f"{each.fluency.perplexity:.2f}", f"{each.fluency.kl:.3f}"]
        for each in [*outcome.measurements[:2], *more, *outcome.measurements[2:]]
    ]
    return table(
        ["condition", outcome.behavior.attribute.name, *outcome.measurements[0].also, "utility", "perplexity", "KL"], rows
    )


def measure(model_name: str) -> str:
    """The measured part of the card."""
    model = load_model(model_name)
    parts = [f"Weights `{model.weight_hash()}`, s2e_lens {s2e_lens.__version__}.\n"]
    for name in shipped_behaviors():
        behavior = load_behavior(name)
        outcome = run(model, behavior, strengths=STRENGTHS, progress=True)
        if len(parts) == 1:
            base = outcome.measurements[0]
            rows = [[task, shown(value), str(value.items)] for task, value in base.tasks.items()]
            rows.append(["mean", shown(base.utility, 3), str(base.utility.items)])
            parts.append("Utility of the unedited model on the test questions:\n\n" + table(["task", "accuracy", "items"], rows))
            text = base.fluency
            parts.append(f"Perplexity of held-out stories: {text.perplexity:.2f} ({text.tokens} tokens).")
        conditions: dict[str, tuple[float | None, Condition]] = {
            "base": (None, partial(edited, model, 0.0 * outcome.edit, force=True))
        }
        for multiple in MULTIPLES:
            conditions[f"edit, λ × {multiple:g}"] = (None, partial(edited, model, multiple * outcome.edit, force=True))
        questions = tokenize_questions(model, behavior, "test")
        more = measure_conditions(model, behavior, questions, conditions, neutral=behavior.neutral)[1:]
        settings = outcome.edit.provenance.settings
        rhos = ", ".join(
            f"{key} {settings[key]:.3g}" for key in ("rho_attn", "rho_mlp", "alpha") if settings.get(key) is not None
        )
        trials = len(outcome.choice.trials) if outcome.choice else 0
        heads, neurons = outcome.edit.count("attn"), outcome.edit.count("mlp")
        parts.append(
            f"### {name}\n\n{outcome.measurements[0].attribute.items} questions. Edit chosen among {trials} on the validation "
            f"questions: {rhos}; {heads} heads and {neurons} neurons.\n\n{curve(outcome, more)}"
        )
    return "\n\n".join(parts)


def main() -> None:
    """Measure and rewrite the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = measure(given.model)
    print(found)
    if given.model == "demo":
        card = CARD.read_text(encoding="utf-8")
        before, after = card.split(BEGIN)[0], card.split(END)[1]
        CARD.write_text(f"{before}{BEGIN}\n{found}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
