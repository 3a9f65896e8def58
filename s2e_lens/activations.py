"""Streaming means of what enters and leaves every site, over the positions that predict response tokens.

For an example whose response tokens are start … end-1, the positions are start-1 … end-2; each example's mean counts
once. Sums are kept in float64 on the CPU, so memory does not grow with the number of examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from s2e_lens.behaviors import TokenizedExample
from s2e_lens.behaviors.examples import LABELS, check_classes
from s2e_lens.behaviors.tokens import hash_examples
from s2e_lens.errors import ExamplesError, MismatchError, StorageError
from s2e_lens.models import LensModel, SiteFn
from s2e_lens.precision import exact
from s2e_lens.results import SITES, ClassMeans, Means, Place, Site, SiteMeans
from s2e_lens.storage import read_tensors, write_tensors


def collect_means(
    model: LensModel,
    examples: Sequence[TokenizedExample],
    *,
    batch_tokens: int = 4096,
    keep_examples: bool = False,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    progress: bool = False,
    seed: int | None = None,
) -> Means:
    """Means of z, post and the raw outputs per layer and site, for both classes.

    Args:
        model: the model, unedited and unsteered.
        examples: tokenised examples of both classes (:func:`~s2e_lens.behaviors.tokenize_examples`).
        batch_tokens: examples of like length share a batch of at most this many tokens.
        keep_examples: also keep each example's mean outputs (for ``first_component`` and ``logistic_probe``): this
            alone grows with their number, 2 * n_layers * d_model doubles an example.
        checkpoint: a file for unfinished sums, written every ``checkpoint_seconds``, when interrupted and at the end. It stays,
            so that nothing is lost if a later step fails: delete it when the result is saved.
        resume: continue from that file. The result is the same to the bit as without the interruption.
        progress: show a bar with rate and remaining time.
        seed: recorded in the provenance.

    Raises:
        ExamplesError: if a class is missing, or an example gives NaN or infinity (named).
        MismatchError: if the checkpoint comes from other examples, weights or batches.
        StorageError: if there is an unfinished checkpoint and ``resume`` was not asked for.
    """
    check_classes(examples, "examples")
    data_hash = hash_examples(examples)
    identity = {
        "examples": data_hash,
        "weights": model.weight_hash(),
        "batch_tokens": str(batch_tokens),
        "keep": str(keep_examples),
    }
    sums = _Sums.zeros(model, keep=keep_examples)
    store = _Checkpoint(Path(checkpoint), identity, checkpoint_seconds) if checkpoint is not None else None
    if store is not None:
        store.restore(sums, resume=resume)
    batches = length_batches([len(example.input_ids) for example in examples], budget=batch_tokens)
    lengths = [len(example.input_ids) for example in examples]
    bar = tqdm(total=sum(lengths), desc="means", unit="token", unit_scale=True, disable=not progress)
    bar.update(sum(lengths[row] for batch in batches[: sums.batches] for row in batch))
    with bar:
        try:
            for rows in batches[sums.batches :]:
                sums.add(model, [examples[row] for row in rows], rows)
                bar.update(sum(lengths[row] for row in rows))
                if store is not None:
                    store.save_if_due(sums)
        except KeyboardInterrupt:
            if store is not None and sums.whole:
                store.save(sums)
            raise
    if store is not None:
        store.save(sums)
    return sums.means(examples, model, data_hash=data_hash, weight_hash=identity["weights"], seed=seed)


def length_batches(lengths: Sequence[int], *, budget: int) -> list[list[int]]:
    """Indices grouped by like length, longest first, each group at most ``budget`` tokens when padded (or one row).

    Longest first, so that what does not fit the memory fails at once.

    >>> length_batches([5, 2, 9, 2], budget=10)
    [[2], [0, 1], [3]]
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def span_weights(examples: Sequence[TokenizedExample], width: int) -> Float[Tensor, "batch pos"]:
    """Weights that average over the positions predicting each response: 1/length there, 0 elsewhere."""
    weights = torch.zeros(len(examples), width)
    for row, example in enumerate(examples):
        weights[row, example.start - 1 : len(example.input_ids) - 1] = 1.0 / (len(example.input_ids) - example.start)
    return weights


@dataclass
class _Sums:
    """Running sums per class and site, and how many batches are in them."""

    inputs: dict[Site, Float[Tensor, "class layer component d_in"]]
    outputs: dict[Site, Float[Tensor, "class layer d_model"]]
    batches: int = 0
    keep: bool = False
    whole: bool = True
    """False while a batch is being added: sums that must not be saved."""
    examples: dict[int, Float[Tensor, "site layer d_model"]] = field(default_factory=dict)

    @classmethod
    def zeros(cls, model: LensModel, *, keep: bool) -> "_Sums":
        shapes, wide = model.shapes, torch.float64
        sums = cls({}, {}, keep=keep)
        for site in SITES:
            sums.inputs[site] = torch.zeros(2, shapes.n_layers, *shapes.components(site), dtype=wide)
            sums.outputs[site] = torch.zeros(2, shapes.n_layers, shapes.d_model, dtype=wide)
        return sums

    def add(self, model: LensModel, batch: Sequence[TokenizedExample], rows: Sequence[int]) -> None:
        """Run one batch and add its span means; nothing of it is kept when it fails."""
        ids, mask = model.pad([example.input_ids for example in batch])
        weights = span_weights(batch, ids.shape[1]).to(ids.device)
        found: dict[Place, tuple[Tensor, Tensor]] = {}

        def reduce(site: Site, layer: int) -> SiteFn:
            def fn(x: Tensor, y: Tensor) -> None:
                here = weights.to(x.device)  # a sharded model's layers lie on several devices
                with exact(x.device):
                    per_x = einsum(here, x.float(), "batch pos, batch pos component d_in -> batch component d_in")
                    per_y = einsum(here, y.float(), "batch pos, batch pos d_model -> batch d_model")
                found[site, layer] = per_x, per_y

            return fn

        with model.intercept({(site, layer): reduce(site, layer) for site, layer in model.shapes.places}):
            model.run(ids, mask)
        found = {place: (per_x.cpu().double(), per_y.cpu().double()) for place, (per_x, per_y) in found.items()}
        self._check_finite(found, batch, rows)
        classes = torch.tensor([LABELS.index(example.label) for example in batch])
        self.whole = False
        for (site, layer), (per_x, per_y) in found.items():
            self.inputs[site][:, layer].index_add_(0, classes, per_x)
            self.outputs[site][:, layer].index_add_(0, classes, per_y)
        if self.keep:
            for i, row in enumerate(rows):
                outputs = [found[place][1][i] for place in model.shapes.places]
                self.examples[row] = torch.stack(outputs).unflatten(0, (len(SITES), -1))
        self.batches += 1
        self.whole = True

    @staticmethod
    def _check_finite(found: dict[Place, tuple[Tensor, Tensor]], batch: Sequence[TokenizedExample], rows: Sequence[int]) -> None:
        for (site, layer), (per_x, per_y) in found.items():
            bad = ~(per_x.isfinite().flatten(1).all(dim=1) & per_y.isfinite().all(dim=1))
            if bad.any():
                i = int(bad.nonzero()[0, 0])
                where = f"line {batch[i].line}" if batch[i].line else f"example {rows[i] + 1}"
                raise ExamplesError(
                    f"{where} gives NaN or infinity at {site}, layer {layer}. If the model runs in float16, load it in "
                    "bfloat16 or float32; otherwise its weights are broken."
                )

    def means(self, examples: Sequence[TokenizedExample], model: LensModel, **known: object) -> Means:
        labels = [example.label for example in examples]
        classes = []
        for index, label in enumerate(LABELS):
            count = labels.count(label)
            attn, mlp = (SiteMeans(self.inputs[s][index] / count, self.outputs[s][index] / count) for s in SITES)
            kept: dict[Site, Tensor] | None = None
            if self.keep:
                each = torch.stack([self.examples[row] for row in range(len(labels)) if labels[row] == label])
                kept = {"attn": each[:, 0], "mlp": each[:, 1]}
            classes.append(ClassMeans(count, attn, mlp, kept))
        positive, negative = classes
        return Means(positive, negative, model.provenance(**known))


@dataclass
class _Checkpoint:
    """Unfinished sums on disk, tied to the examples, weights and batches they belong to."""

    path: Path
    identity: dict[str, str]
    seconds: float
    last: float = field(default_factory=monotonic)

    def restore(self, sums: _Sums, *, resume: bool) -> None:
        if not self.path.exists():
            return
        if not resume:
            raise StorageError(
                f"{self.path} holds an unfinished extraction. Continue it with resume (--resume), or delete it to start again."
            )
        tensors, metadata = read_tensors(self.path)
        changed = [key for key, value in self.identity.items() if metadata.get(key) != value]
        if changed:
            raise MismatchError(
                f"{self.path} was begun with other {' and '.join(changed)}: its sums cannot be continued. "
                "Use the same examples, model and options, or delete the file to start again."
            )
        for site in SITES:
            sums.inputs[site].copy_(tensors[f"{site}.inputs"])
            sums.outputs[site].copy_(tensors[f"{site}.outputs"])
        sums.batches = int(tensors["batches"])
        sums.examples = {int(name.split(".")[1]): t for name, t in tensors.items() if name.startswith("example.")}

    def save_if_due(self, sums: _Sums) -> None:
        if monotonic() - self.last >= self.seconds:
            self.save(sums)

    def save(self, sums: _Sums) -> None:
        tensors = {f"{site}.inputs": sums.inputs[site] for site in SITES}
        tensors |= {f"{site}.outputs": sums.outputs[site] for site in SITES}
        tensors |= {f"example.{row}": each for row, each in sums.examples.items()}
        write_tensors(self.path, {**tensors, "batches": torch.tensor(sums.batches)}, self.identity)
        self.last = monotonic()
