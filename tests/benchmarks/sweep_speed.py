"""How fast a sweep is: ``python tests/benchmarks/sweep_speed.py [--settings 125]``. Ratios are within one run.

Three parts, on the demo model and one behaviour's validation questions:

1. a sweep of 5 x 5 x 5 edits: one model, λ alone changes;
2. some of them in a loop like the published pipeline: load the checkpoint, edit it neuron by neuron, save it, load it again,
   evaluate; once with one prompt at a time and once with our own batches (so that what batching gains is told apart);
3. settings per second against the number of settings that share a batch, for few and for many prompts.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import torch

from s2e_lens import collect_means, find_directions, load_model, tokenize_examples
from s2e_lens.behaviors import load_behavior
from s2e_lens.evaluation import (
    Bench,
    Condition,
    Grid,
    Meter,
    Plan,
    Setting,
    Sweep,
    logprobs,
    one_by_one,
    together,
    tokenize_questions,
)
from s2e_lens.models import LensModel, base
from s2e_lens.results import SITES

GRID = Grid((0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 1.0, 1.5, 2.0, 2.5), (0.05, 0.2, 0.4, 0.6, 0.8), by="gain")


def published_loop(bench: Bench, name: str, settings: Sequence[Setting], *, rows: int | None) -> float:
    """Seconds per setting of a loop that holds no model; ``rows`` = 1 evaluates one prompt at a time."""
    from transformers import AutoModelForCausalLM

    behavior = load_behavior(name)
    kept = base.MAX_ROWS, logprobs.BATCH_TOKENS
    begun = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bench.model.twin.save_pretrained(Path(folder) / "unedited")
        for setting in settings:
            edit = bench.edit(setting)
            plain = AutoModelForCausalLM.from_pretrained(Path(folder) / "unedited")
            with torch.no_grad():
                for site in SITES:
                    for term in edit[site]:
                        d_in = term.k.shape[-1]
                        for layer, index in term.lam.nonzero().tolist():
                            weight = plain.get_submodule(bench.model.module_names[site, layer]).weight
                            columns = slice(index * d_in, (index + 1) * d_in)
                            weight[:, columns] += torch.outer(term.u[layer], term.lam[layer, index] * term.k[layer, index])
            edited = Path(folder) / "edited"
            plain.save_pretrained(edited)
            bench.model.text.tokenizer.save_pretrained(edited)
            del plain
            model = load_model(edited)
            if rows is not None:
                base.MAX_ROWS, logprobs.BATCH_TOKENS = rows, 1
            try:
                questions = tokenize_questions(model, behavior, "validation")
                next(iter(Meter(model, questions, behavior.neutral, share=False).measure([Condition()])))
            finally:
                base.MAX_ROWS, logprobs.BATCH_TOKENS = kept
    return (perf_counter() - begun) / len(settings)


def shared_rows(model: LensModel, conditions: Sequence[Condition], prompts: Sequence[Sequence[int]], tokens: int) -> None:
    """Settings per second, shared and one by one, against the number of settings in a batch."""

    def job(seen: LensModel, index: int) -> int:
        return len(seen.generate(prompts, max_new_tokens=tokens, eos_token_id=None))

    one_by_one(model, conditions[:1], job)
    for count in (1, 2, 4, 8, 16, 32):
        some = conditions[:count]
        begun = perf_counter()
        one_by_one(model, some, job)
        alone = perf_counter() - begun
        begun = perf_counter()
        together(model, some, job)
        shared = perf_counter() - begun
        rows = count * len(prompts)
        print(
            f"   {len(prompts):3} prompts, {count:2} settings, {rows:4} rows: alone {count / alone:7.2f}/s, "
            f"shared {count / shared:7.2f}/s, x{alone / shared:.2f}"
        )


def main() -> None:
    """Run all three parts and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--behavior", default="safety")
    parser.add_argument("--settings", type=int, default=125)
    parser.add_argument("--loop", type=int, default=2, help="settings of the published loop")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, behavior = load_model("demo"), load_behavior(given.behavior)
    bench = Bench(model, find_directions(collect_means(model, tokenize_examples(model, behavior.train))))
    settings = GRID.settings(bench)[: given.settings]
    sweep = Sweep(bench, behavior, Plan(GRID))
    begun = perf_counter()
    sweep.measure(settings, "validation")
    each = (perf_counter() - begun) / len(settings)
    print(f"1. sweep: {len(settings)} settings in {each * len(settings):.1f} s, {each:.3f} s per setting; {sweep.way}")
    some = settings[:: max(1, len(settings) // given.loop)][: given.loop]
    for name, rows in (("one prompt at a time", 1), ("our batches", None)):
        loop = published_loop(bench, given.behavior, some, rows=rows)
        print(f"2. loop like the published one, {name}: {loop:.2f} s per setting, x{loop / each:.1f} of the sweep's")
    conditions = [bench.condition(setting) for setting in settings[:32]]
    prompts = [example.input_ids[: example.start] for example in sweep.questions("validation").examples]
    print("3. 32 greedy tokens for each prompt under each setting:")
    for count in (1, 4, 16, 64):
        shared_rows(model, conditions, list(dict.fromkeys(prompts))[:count], 32)


if __name__ == "__main__":
    main()
