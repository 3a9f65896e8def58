"""Time and memory of every step on a random model, as ratios to a plain alternative measured in the same run.

    python tests/benchmarks/steps.py [--layers 8] [--d-model 512] [--threads 1] [--device cpu]

Prints one line per measurement. Nothing here is a test.
"""

import argparse
import random
import resource
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, ".")
from s2e_lens import collect_means, edit_as_hooks, edited, find_directions, load_model, prepare_edit  # noqa: E402
from s2e_lens.behaviors import TokenizedExample  # noqa: E402
from s2e_lens.editor import plan_to_dose  # noqa: E402
from tests.tiny import tiny_tokenizer  # noqa: E402

VOCABULARY = 4096


def seconds(job: Callable[[], object], repeats: int = 5) -> float:
    """Median wall time after one warm-up."""
    job()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def peak_mb() -> float:
    """Peak resident memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def examples(count: int, length: int) -> list[TokenizedExample]:
    choice = random.Random(0)
    rows = [tuple(choice.randrange(4, VOCABULARY) for _ in range(choice.randint(length // 2, length))) for _ in range(count)]
    return [TokenizedExample("positive" if i % 2 else "negative", row, len(row) // 2) for i, row in enumerate(rows)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=args.d_model,
        intermediate_size=4 * args.d_model,
        num_hidden_layers=args.layers,
        num_attention_heads=args.d_model // 64,
        num_key_value_heads=args.d_model // 128,
        max_position_embeddings=1024,
    )
    hf = LlamaForCausalLM._from_config(config, attn_implementation="eager").to(args.device).eval()
    model = load_model(hf, tokenizer=tiny_tokenizer())
    millions = sum(p.numel() for p in hf.parameters()) / 1e6
    print(f"llama, {millions:.1f}M parameters, {args.layers} layers, {args.threads} threads, {args.device}")
    start_mb = peak_mb()
    few, many = examples(64, 128), examples(512, 128)
    tokens = sum(len(e.input_ids) for e in few)

    def bare() -> None:
        with torch.no_grad():
            for i in range(0, len(few), 32):
                hf.base_model(*model.pad([e.input_ids for e in few[i : i + 32]]), use_cache=False)

    plain = seconds(bare, 3)
    batched = seconds(lambda: collect_means(model, few), 3)
    single = seconds(lambda: collect_means(model, few, batch_tokens=1), 1)
    print(
        f"means, 64 examples       {batched:8.3f} s  {tokens / batched:8.0f} tokens/s  x{batched / plain:.2f} of a bare forward"
    )
    print(f"  one at a time          {single:8.3f} s                   x{single / batched:.2f} of batched")
    after_few = peak_mb()
    collect_means(model, many)
    print(f"  peak memory            start {start_mb:.0f} MB, after 64 examples {after_few:.0f} MB, after 512 {peak_mb():.0f} MB")
    directions = find_directions(collect_means(model, few))
    basis = prepare_edit(model, directions)
    print(f"attribute and prepare    {seconds(lambda: prepare_edit(model, directions, force=True)):8.3f} s")
    print(f"plan to a dose           {seconds(lambda: plan_to_dose(basis)):8.3f} s")
    print(f"weight hash              {seconds(model.weight_hash):8.3f} s")
    edit = plan_to_dose(basis)

    def apply_and_revert() -> None:
        with edited(model, edit, force=True):
            pass

    def neuron_by_neuron() -> None:
        with torch.no_grad():
            for layer in range(args.layers):
                weight, saved = model.W_out[layer], model.W_out[layer].clone()
                term = edit.mlp[0]
                for neuron in term.lam[layer].nonzero()[:, 0].tolist():
                    weight[neuron] += term.lam[layer, neuron] * term.k[layer, neuron, 0] * term.u[layer].to(weight.device)
                weight.copy_(saved)

    folded, loop = seconds(apply_and_revert), seconds(neuron_by_neuron)
    print(f"apply and revert         {folded:8.3f} s  {edit.count('attn')} heads, {edit.count('mlp')} neurons")
    print(f"  a loop over neurons    {loop:8.3f} s                   x{loop / folded:.1f} of the above (MLP alone)")
    ids, mask = model.pad([e.input_ids for e in few[:8]])
    forward = seconds(lambda: model.logits(ids, mask))
    with ExitStack() as stack:
        stack.enter_context(edit_as_hooks(model, edit, force=True))
        hooked = seconds(lambda: model.logits(ids, mask))
    print(f"forward, 8 rows          {forward:8.3f} s; with the edit as hooks x{hooked / forward:.2f}")


if __name__ == "__main__":
    main()
