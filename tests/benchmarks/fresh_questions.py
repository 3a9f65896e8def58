"""Measure the edits that sweeps chose on new questions: ``python tests/benchmarks/fresh_questions.py SWEEPS [--seed N]``.

The demo's generator draws new test questions (other terms, lists, wordings and pressures; the verbs, objects and creatures of the
test split, which are finite), and the chosen edit, steering and steering of the same layers are measured on them.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from s2e_lens import load_model
from s2e_lens.behaviors import Behavior, load_behavior, shipped_behaviors
from s2e_lens.behaviors.examples import parse_example
from s2e_lens.demo import splits
from s2e_lens.evaluation import Bench, Comparison, Meter, Record, Setting, compare, steering_settings, tokenize_questions
from s2e_lens.evaluation.sweep import STRENGTHS
from s2e_lens.pipeline.sweeps import compare_sweep
from s2e_lens.pipeline.tables import shown_gain
from s2e_lens.results import Directions
from s2e_lens.storage import load

TASKS = {"mental arithmetic": "mental", "arithmetic": "reasoning"}


def fresh(behavior: Behavior, seed: int) -> Behavior:
    """The behaviour with new test questions, none of which ships."""
    kept = splits.SEED
    shipped = {example.key for each in (behavior, *behavior.utility) for example in (*each.test, *each.validation)}
    splits.SEED = seed
    splits._measured_terms.cache_clear()
    try:

        def drawn(name: str) -> list:
            examples = [parse_example(json.loads(json.dumps(each))) for each in splits.records(name, "test")]
            return examples if name == "truthfulness" else [example for example in examples if example.key not in shipped]

        tasks = tuple(
            dataclasses.replace(task, test=drawn(TASKS.get(task.name, task.name)), validation=()) for task in behavior.utility
        )
        return dataclasses.replace(behavior, test=drawn(behavior.name), validation=(), utility=tasks)
    finally:
        splits.SEED = kept
        splits._measured_terms.cache_clear()


def measure(folder: Path, name: str, seed: int) -> Comparison:
    """The chosen edit of a sweep against steering, on fresh questions."""
    model, behavior = load_model("demo"), fresh(load_behavior(name), seed)
    bench = Bench(model, load(folder / "directions.safetensors", Directions))
    chosen = compare_sweep(folder).comparison.edit.setting
    settings = [Setting("base"), chosen, *steering_settings(STRENGTHS)]
    if chosen.options.get("layers"):
        settings += steering_settings(STRENGTHS, layers=chosen.options["layers"])
    meter = Meter(model, tokenize_questions(model, behavior, "test", seed=seed), behavior.neutral, share=False)
    measured = meter.measure([bench.condition(each) for each in settings])
    records = [Record(setting, "test", {}, items) for setting, items in zip(settings, measured, strict=True)]
    return compare(records, chosen, higher_is_better=behavior.attribute.higher_is_better, seed=seed)


def main() -> None:
    """Print a line per behaviour."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path)
    parser.add_argument("--seed", type=int, default=1018)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in shipped_behaviors():
        found = measure(given.sweeps / name, name, given.seed)
        base, edit = found.base, found.edit
        print(f"{name}: {edit.setting.label}, {base.attribute.items} questions and {base.utility.items} items of utility")
        print(f"  attribute {base.attribute.value:.3f} -> {edit.attribute.value:.3f}")
        print(f"  utility {base.utility.value:.3f} -> {edit.utility.value:.3f}")
        print(f"  at matched utility {shown_gain(found.at_utility)}\n  at matched KL {shown_gain(found.at_kl)}")
        if found.same_layers:
            print(f"  steering of the same layers: {shown_gain(found.same_layers[0])}; at KL {shown_gain(found.same_layers[1])}")


if __name__ == "__main__":
    main()
