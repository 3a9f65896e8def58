"""Measure the demo model and write the numbers into its card: ``python tests/benchmarks/demo_card.py [--sweeps DIR]``.

Each behaviour is swept (edits, steering curve, controls; selection on validation questions); the card shows test questions.
"""

import argparse
from pathlib import Path

import torch

import s2e_lens
from s2e_lens import load_model
from s2e_lens.behaviors import load_behavior, shipped_behaviors
from s2e_lens.demo import MODEL_FOLDER
from s2e_lens.evaluation import DEFAULT_GRID, Estimate, Plan, estimate
from s2e_lens.evaluation.comparison import Point, control_means
from s2e_lens.pipeline.sweeps import SweepResult, compare_sweep, sweep
from s2e_lens.pipeline.tables import shown_gain

CARD = MODEL_FOLDER.parent / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def shown(value: Estimate, digits: int = 2) -> str:
    """A value with its interval."""
    interval = "" if value.low is None else f" [{value.low:.{digits}f}, {value.high:.{digits}f}]"
    return f"{value.value:.{digits}f}{interval}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def tradeoff(result: SweepResult) -> str:
    """Attribute and utility of every setting on the test questions."""
    found = result.comparison
    digits = 2 if found.base.attribute.value < 10 else 1

    def row(name: str, each: Point) -> list[str]:
        also = [f"{values.mean():.2f}" for values in each.items.also.values()]
        last = [shown(each.utility, 3), f"{each.items.kl:.4f}", f"{each.items.degenerate:.1%}"]
        return [name, shown(each.attribute, digits), *also, *last]

    edits = sorted(found.edits, key=lambda each: (each is not found.edit, -each.items.kl))
    rows = [row("unedited", found.base)]
    rows += [row(("**chosen** " if each is found.edit else "") + each.setting.label, each) for each in (*edits, *found.curve)]
    header = ["condition", str(result.manifest["attribute"]), *found.base.items.also, "utility", "KL", "degenerate"]
    return table(header, rows)


def comparison(result: SweepResult) -> str:
    """The gains and the controls."""
    found = result.comparison
    rows = [["steering at matched utility", shown_gain(found.at_utility)], ["steering at matched KL", shown_gain(found.at_kl)]]
    if found.selected is not None and found.steering is not None:
        lead = found.selected
        interval = f"{lead.value:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
        rows.append([f"steering {found.steering.setting.strength:g}, chosen by the same rule", interval])
    for name, (change, ahead, runs) in control_means(found).items():
        rows.append([f"{name}{f', mean of {runs}' if runs > 1 else ''} (itself {change:+.3f})", f"{ahead:+.3f}"])
    return table(["the chosen edit is ahead of", "by (positive is better)"], rows)


def measure(model_name: str, folder: Path) -> str:
    """The measured part of the card."""
    model = load_model(model_name)
    parts = [f"Weights `{model.weight_hash()}`, s2e_lens {s2e_lens.__version__}.\n"]
    for name in shipped_behaviors():
        out = folder / name
        sweep(model, load_behavior(name), out, Plan(DEFAULT_GRID), resume=out.exists(), progress=True)
        result = compare_sweep(out)
        if len(parts) == 1:
            base = result.comparison.base
            rows = [[task, shown(estimate(values)), str(len(values))] for task, values in base.items.tasks.items()]
            rows.append(["mean", shown(base.utility, 3), str(base.utility.items)])
            parts.append("Utility of the unedited model on the test questions:\n\n" + table(["task", "accuracy", "items"], rows))
            parts.append(f"Perplexity of held-out stories: {base.items.perplexity:.2f} ({int(base.items.tokens.sum())} tokens).")
        questions = result.comparison.base.attribute.items
        parts.append(
            f"### {name}\n\n{questions} questions; {result.comparison.tried} edits were tried on the validation questions.\n\n"
            f"{tradeoff(result)}\n\n{comparison(result)}"
        )
    return "\n\n".join(parts)


def main() -> None:
    """Measure and rewrite the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--sweeps", type=Path, default=Path("demo_sweeps"), help="where the sweeps are kept")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = measure(given.model, given.sweeps)
    print(found)
    if given.model == "demo":
        card = CARD.read_text(encoding="utf-8")
        before, after = card.split(BEGIN)[0], card.split(END)[1]
        CARD.write_text(f"{before}{BEGIN}\n{found}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
