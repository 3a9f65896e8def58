"""Streaming means: against a brute-force loop, batched against one at a time, interrupted against not."""

import gc
import itertools
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from s2e_lens import activations, collect_means
from s2e_lens.behaviors import TokenizedExample
from s2e_lens.errors import ExamplesError, MismatchError, StorageError
from s2e_lens.models import LensModel
from s2e_lens.results import SITES, Means
from tests.helpers import tiny_examples
from tests.tiny import FAMILIES, tiny_hf, tiny_model


def flat(means: Means) -> dict[str, torch.Tensor]:
    return {
        f"{label}.{site}.{what}": getattr(getattr(means, label)[site], what)
        for label, site, what in itertools.product(("positive", "negative"), SITES, ("inputs", "outputs"))
    }


def brute_force(model: LensModel, family: str, examples: list[TokenizedExample], *, shift: int = 1) -> dict[str, torch.Tensor]:
    """One example at a time, torch hooks on a plain Hugging Face model, and a Python loop over positions."""
    plain = tiny_hf(family)
    kept: dict = {}
    for place, name in model.module_names.items():
        plain.get_submodule(name).register_forward_hook(lambda m, a, y, place=place: kept.__setitem__(place, (a[0][0], y[0])))
    found: dict[str, list[torch.Tensor]] = {}
    for label in ("positive", "negative"):
        for place in model.module_names:
            rows: tuple[list, list] = ([], [])
            for example in (e for e in examples if e.label == label):
                with torch.no_grad():
                    plain(torch.tensor([example.input_ids]))
                positions = [token - shift for token in range(example.start, len(example.input_ids))]
                for i in range(2):
                    rows[i].append(sum(kept[place][i][p].double() for p in positions) / len(positions))
            n = len(rows[0])
            shape = model.shapes.components(place[0])
            found.setdefault(f"{label}.{place[0]}.inputs", []).append((sum(rows[0]) / n).reshape(shape))
            found.setdefault(f"{label}.{place[0]}.outputs", []).append(sum(rows[1]) / n)
    return {name: torch.stack(layers) for name, layers in found.items()}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "phi3"])
def test_means_are_those_of_a_loop_over_examples_and_positions(family: str) -> None:
    model, examples = tiny_model(family), tiny_examples()
    got = flat(collect_means(model, examples))
    for name, want in brute_force(model, family, examples).items():
        assert_close(got[name], want, atol=1e-5, rtol=0)
    # Negative control: the positions of the response tokens themselves, instead of those that predict them.
    wrong = brute_force(model, family, examples, shift=0)
    assert max((got[name] - wrong[name]).abs().max() for name in got) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_equals_one_at_a_time(family: str) -> None:
    model, examples = tiny_model(family), tiny_examples()
    together, apart = flat(collect_means(model, examples)), flat(collect_means(model, examples, batch_tokens=1))
    for name, want in apart.items():
        assert_close(together[name], want, atol=1e-5, rtol=0)


def test_every_example_counts_once_however_long_it_is() -> None:
    model = tiny_model()
    short = TokenizedExample("positive", (1, 5, 6), 2)
    long = TokenizedExample("positive", (1, *range(10, 40)), 2)
    other = TokenizedExample("negative", (1, 7, 8), 2)
    both = collect_means(model, [short, long, other]).positive
    one, two = (collect_means(model, [each, other]).positive for each in (short, long))
    assert both.count == 2
    assert_close(both.mlp.outputs, (one.mlp.outputs + two.mlp.outputs) / 2, atol=1e-5, rtol=0)
    assert (both.mlp.outputs - two.mlp.outputs).abs().max() > 0.1


def test_a_mixture_of_experts_has_outputs_and_no_neurons() -> None:
    means = collect_means(tiny_model("mixtral"), tiny_examples())
    assert means.positive.mlp.inputs.shape == (2, 0, 1)
    assert means.positive.mlp.outputs.abs().max() > 0


def test_bfloat16_means_are_those_of_a_float64_loop_over_the_bfloat16_activations() -> None:
    """Only the activations are bfloat16: the averages over positions and over examples have no further rounding."""
    model, examples = tiny_model(dtype=torch.bfloat16), tiny_examples(60)
    means = collect_means(model, examples, batch_tokens=1)
    sums: dict = {}
    layers = model.shapes.n_layers
    with model.intercept(
        {(s, i): lambda x, y, p=(s, i): sums.__setitem__(p, (x[0], y[0])) for s in SITES for i in range(layers)}
    ):
        rows: dict = {}
        for example in (e for e in examples if e.label == "positive"):
            model.run(*model.pad([example.input_ids]))
            span = slice(example.start - 1, len(example.input_ids) - 1)
            for place, (x, y) in sums.items():
                rows.setdefault(place, []).append((x[span].double().mean(0), y[span].double().mean(0)))
    for (site, layer), each in rows.items():
        for index, what in enumerate(("inputs", "outputs")):
            want = torch.stack([pair[index] for pair in each]).mean(dim=0)
            got = getattr(means.positive[site], what)[layer]
            assert_close(got, want, atol=2e-6, rtol=1e-5)
            rounded = torch.stack([pair[index].to(torch.bfloat16).double() for pair in each]).mean(dim=0)
            if what == "outputs":  # negative control: rounding each example's mean to bfloat16 shows
                assert (rounded - want).abs().max() > 1e-5


def test_autocast_around_it_changes_no_average() -> None:
    model, examples = tiny_model(), tiny_examples()
    plain = flat(collect_means(model, examples))
    weights = activations.span_weights(examples[:1], len(examples[0].input_ids))
    assert weights.sum() == pytest.approx(1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = collect_means(model, examples)
    # The model itself runs in bfloat16 there; what is averaged is kept: outputs are still W_O z + b to bfloat16's last digit.
    assert mixed.positive.attn.inputs.dtype == torch.float64
    assert max((flat(mixed)[name] - want).abs().max() / want.abs().max() for name, want in plain.items()) < 0.1


def test_a_killed_extraction_resumes(tmp_path: Path) -> None:
    """SIGKILL in the middle, in a process of its own: what was checkpointed is whole, and the rest is done on resuming."""
    path = tmp_path / "means.partial"
    program = f"""
import os, signal
from s2e_lens import activations, collect_means
from tests.helpers import tiny_examples
from tests.tiny import tiny_model
save, count = activations._Checkpoint.save, 0
def saving(self, sums):
    global count
    save(self, sums)
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
activations._Checkpoint.save = saving
collect_means(tiny_model(), tiny_examples(), batch_tokens=30, checkpoint={str(path)!r}, checkpoint_seconds=0.0)
"""
    root = Path(__file__).resolve().parents[1]
    died = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, timeout=300, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert [each.name for each in tmp_path.iterdir()] == ["means.partial"]
    model, examples = tiny_model(), tiny_examples()
    resumed = collect_means(model, examples, batch_tokens=30, checkpoint=path, resume=True)
    whole = collect_means(model, examples, batch_tokens=30)
    for name, want in flat(whole).items():
        assert_close(flat(resumed)[name], want, atol=1e-6, rtol=0)


def test_kept_examples_average_to_the_means() -> None:
    means = collect_means(tiny_model(), tiny_examples(), keep_examples=True)
    for each in (means.positive, means.negative):
        for site in SITES:
            assert each.examples[site].shape[0] == each.count
            assert_close(each.examples[site].mean(dim=0), each[site].outputs, atol=1e-12, rtol=0)
    assert collect_means(tiny_model(), tiny_examples()).positive.examples is None


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Stop])
@pytest.mark.parametrize("keep", [False, True])
def test_an_interrupted_extraction_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException], keep: bool
) -> None:
    model, examples, path = tiny_model(), tiny_examples(), tmp_path / "means.partial"
    whole = collect_means(model, examples, batch_tokens=30, keep_examples=keep)
    batches, add = 0, activations._Sums.add

    def stopping(self, *args):
        nonlocal batches
        batches += 1
        if batches == 4:
            raise stop
        return add(self, *args)

    monkeypatch.setattr(activations._Sums, "add", stopping)
    options = {"batch_tokens": 30, "keep_examples": keep, "checkpoint": path, "checkpoint_seconds": 0.0}
    with pytest.raises(stop):
        collect_means(model, examples, **options)
    monkeypatch.setattr(activations._Sums, "add", add)
    assert path.exists()
    with pytest.raises(StorageError, match="--resume"):
        collect_means(model, examples, **options)
    runs = []
    monkeypatch.setattr(activations._Sums, "add", lambda self, *args: (runs.append(1), add(self, *args))[1])
    resumed = collect_means(model, examples, resume=True, **options)
    total = len(activations.length_batches([len(e.input_ids) for e in examples], budget=30))
    assert len(runs) == total - 3  # the three finished batches were not run again
    for name, want in flat(whole).items():
        assert torch.equal(flat(resumed)[name], want)
    if keep:
        assert torch.equal(resumed.positive.examples["mlp"], whole.positive.examples["mlp"])
    # What is finished stays until its owner has saved the result, and is not computed again.
    runs.clear()
    again = collect_means(model, examples, resume=True, **options)
    assert not runs
    assert torch.equal(again.negative.mlp.outputs, whole.negative.mlp.outputs)


def test_an_interruption_within_a_batch_does_not_save_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, examples, path = tiny_model(), tiny_examples(), tmp_path / "means.partial"
    add = torch.Tensor.index_add_
    calls = 0

    def stopping(self, *args):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return add(self, *args)

    monkeypatch.setattr(torch.Tensor, "index_add_", stopping)
    with pytest.raises(KeyboardInterrupt):
        collect_means(model, examples, checkpoint=path)
    assert not path.exists()


@pytest.mark.parametrize("change", ["examples", "weights", "batch_tokens"])
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    path = tmp_path / "means.partial"
    add = activations._Sums.add
    monkeypatch.setattr(activations._Sums, "add", lambda self, *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        collect_means(tiny_model(), tiny_examples(), checkpoint=path)
    monkeypatch.setattr(activations._Sums, "add", add)
    model = tiny_model(seed=1) if change == "weights" else tiny_model()
    examples = tiny_examples(seed=1) if change == "examples" else tiny_examples()
    with pytest.raises(MismatchError, match=change):
        collect_means(model, examples, checkpoint=path, resume=True, batch_tokens=10 if change == "batch_tokens" else 4096)
    assert path.exists()


def test_memory_does_not_grow_with_the_number_of_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of all living tensors after each batch: as many after the second as after the twentieth."""
    model, add = tiny_model(), activations._Sums.add

    def living(keep: bool) -> list[int]:
        sizes, batches = [], itertools.count(1)

        def counting(self, *args):
            add(self, *args)
            if next(batches) in (2, 20):
                tensors = {id(t.untyped_storage()): t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)}
                sizes.append(sum(t.numel() * t.element_size() for t in tensors.values()))

        monkeypatch.setattr(activations._Sums, "add", counting)
        gc.collect()
        collect_means(model, tiny_examples(20), batch_tokens=1, keep_examples=keep)
        return sizes

    second, last = living(keep=False)
    assert second == last
    second, last = living(keep=True)  # negative control: the option that keeps something per example
    assert last > second


def test_nan_names_the_example() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.twin.get_input_embeddings().weight[90] = float("nan")
    examples = [TokenizedExample("positive", (1, 5, 6), 1, line=3), TokenizedExample("negative", (1, 90, 6), 1, line=8)]
    with pytest.raises(ExamplesError, match="line 8 gives NaN"):
        collect_means(model, examples)


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(ExamplesError, match="no negative"):
        collect_means(tiny_model(), [e for e in tiny_examples() if e.label == "positive"])


def test_batches_hold_every_example_once_and_respect_the_budget() -> None:
    lengths = [len(e.input_ids) for e in tiny_examples(50)]
    batches = activations.length_batches(lengths, budget=64)
    assert sorted(itertools.chain(*batches)) == list(range(50))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 64 for batch in batches)
    assert len(batches) < 50
