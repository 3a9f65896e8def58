"""Train the demo model: ``python -m s2e_lens.demo.train --out DIR``.

A corpus is generated from a seed, a tokenizer and a Llama-style model are trained on it, and both are saved as an
ordinary Hugging Face checkpoint. Interrupt it when you like: the same command with ``--resume`` continues.
"""

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from s2e_lens.demo.conversations import Document, document, user_turns
from s2e_lens.demo.splits import held_out
from s2e_lens.demo.tokenizer import ASSISTANT, BOS, END, PAD, train_tokenizer
from s2e_lens.errors import StorageError
from s2e_lens.storage import read_tensors, write_tensors

TOKENIZER_DOCUMENTS = 20_000
WINDOW = 8192
UNFINISHED = "unfinished.safetensors"
IGNORE = -100


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result."""

    documents: int = 350_000
    seed: int = 0
    d_model: int = 128
    d_mlp: int = 704
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    context: int = 512
    batch_tokens: int = 3072
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 0.1


def corpus(number: int, seed: int, *, without: frozenset[str] = frozenset()) -> Iterator[Document]:
    """``number`` documents, the same for the same seed; those in which a user says something of ``without`` are left out."""
    found = 0
    index = 0
    while found < number:
        made = document(random.Random(f"s2e-lens demo {seed} {index}"))
        index += 1
        if not without.intersection(user_turns(made)):
            found += 1
            yield made


def corpus_bytes(documents: Sequence[Document]) -> bytes:
    """The corpus as JSON lines."""
    return b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in documents)


def _token(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    found: Any = tokenizer.convert_tokens_to_ids(token)
    return found


def encode(documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast) -> list[tuple[np.ndarray, np.ndarray]]:
    """Token ids of each document, and where the loss counts: the whole of a story, the assistant's words in a conversation."""
    pieces = [part for each in documents for part in ([each] if isinstance(each, str) else [m["content"] for m in each])]
    encoded = iter([e.ids for e in tokenizer.backend_tokenizer.encode_batch(pieces, add_special_tokens=False)])
    bos, end = (_token(tokenizer, token) for token in (BOS, END))
    rows = []
    for each in documents:
        ids, counted = [bos], [False]
        if isinstance(each, str):
            ids += [*next(encoded), end]
            counted += [True] * (len(ids) - 1)
        else:
            for message in each:
                said = next(encoded)
                ids += [_token(tokenizer, f"<|{message['role']}|>"), *said, end]
                counted += [False, *[f"<|{message['role']}|>" == ASSISTANT] * (len(said) + 1)]
        rows.append((np.array(ids, dtype=np.int64), np.array(counted)))
    return rows


def batches(lengths: np.ndarray, batch_tokens: int, seed: int) -> list[np.ndarray]:
    """Document numbers of each step: documents of like length share a batch, in an order that the seed decides."""
    rng = np.random.default_rng(seed)
    found = []
    for begin in range(0, len(lengths), WINDOW):
        window = np.arange(begin, min(begin + WINDOW, len(lengths)))
        window = window[np.lexsort((rng.random(len(window)), lengths[window]))]
        here, start = [], 0
        for stop in range(1, len(window) + 1):
            if stop == len(window) or (stop + 1 - start) * lengths[window[stop]] > batch_tokens:
                here.append(window[start:stop])
                start = stop
        rng.shuffle(here)
        found += here
    return found


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Any:
    """An untrained model; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=recipe.d_model,
                intermediate_size=recipe.d_mlp,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                num_key_value_heads=recipe.kv_heads,
                max_position_embeddings=recipe.context,
                tie_word_embeddings=True,
                bos_token_id=_token(tokenizer, BOS),
                eos_token_id=_token(tokenizer, END),
                pad_token_id=_token(tokenizer, PAD),
            )
        )


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to nothing."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, steps - recipe.warmup)
    return recipe.learning_rate * 0.5 * (1 + float(np.cos(np.pi * done)))


def batch_loss(model: Any, rows: Sequence[tuple[np.ndarray, np.ndarray]], pad: int, device: str) -> torch.Tensor:
    """Mean cross-entropy in nats over the tokens that count."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), IGNORE)
    for i, (row, counted) in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(row)
        labels[i, : len(row)] = torch.from_numpy(np.where(counted, row, IGNORE))
    ids, labels = ids.to(device), labels.to(device)
    # Padding is on the right and attention is causal: no token that counts ever sees it.
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    chosen = targets != IGNORE
    return nn.functional.cross_entropy(model.lm_head(hidden[chosen]), targets[chosen])


def train(
    recipe: Recipe,
    out: Path,
    *,
    without: frozenset[str] = frozenset(),
    device: str = "cpu",
    resume: bool = False,
    save_seconds: float = 120.0,
    max_steps: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a model by a recipe and save it as a checkpoint in ``out``; returns what happened, also in ``training.json``.

    Raises:
        StorageError: if ``out`` holds a finished model, or an unfinished one of another recipe or without ``resume``.
    """
    state_file = out / UNFINISHED
    if (out / "config.json").exists():
        raise StorageError(f"{out} holds a finished model: choose another folder or remove it.")
    if state_file.exists() and not resume:
        raise StorageError(f"{out} holds an unfinished training: continue it with --resume, or remove it.")
    out.mkdir(parents=True, exist_ok=True)
    documents = list(corpus(recipe.documents, recipe.seed, without=without))
    digest = hashlib.sha256(corpus_bytes(documents)).hexdigest()
    tokenizer = train_tokenizer(
        part
        for each in documents[:TOKENIZER_DOCUMENTS]
        for part in ([each] if isinstance(each, str) else [m["content"] for m in each])
    )
    rows = encode(documents, tokenizer)
    plan = batches(np.array([len(ids) for ids, _ in rows]), recipe.batch_tokens, recipe.seed)
    model = build_model(recipe, tokenizer).to(device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
    )
    key = {"recipe": asdict(recipe), "corpus": digest}
    losses: list[float] = []
    seconds = 0.0
    if state_file.exists():
        losses, seconds = _load_state(state_file, key, model, optimizer)
    model.train()
    begun = saved = time.monotonic()
    bar = tqdm(total=len(plan), initial=len(losses), unit="step", disable=not progress, mininterval=2)
    for step in range(len(losses), len(plan)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, len(plan))
        loss = batch_loss(model, [rows[i] for i in plan[step]], _token(tokenizer, PAD), device)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        bar.update()
        bar.set_postfix(loss=f"{np.mean(losses[-100:]):.3f}", refresh=False)
        stop = max_steps is not None and step + 1 >= max_steps
        if stop or time.monotonic() - saved > save_seconds:
            spent = seconds + time.monotonic() - begun
            _save_state(state_file, key, model, optimizer, losses, spent)
            saved = time.monotonic()
        if stop:
            break
    bar.close()
    happened = {
        "recipe": asdict(recipe),
        "corpus": {
            "documents": len(rows),
            "tokens": int(sum(len(ids) for ids, _ in rows)),
            "tokens with loss": int(sum(counted.sum() for _, counted in rows)),
            "sha256": digest,
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": len(losses),
        "loss": float(np.mean(losses[-200:])),
        "seconds": round(seconds + time.monotonic() - begun),
        "device": device,
        "torch": torch.__version__,
    }
    if len(losses) == len(plan):
        save_model(model, tokenizer, out)
        (out / "training.json").write_text(json.dumps(happened, indent=1) + "\n", encoding="utf-8")
        state_file.unlink(missing_ok=True)
    return happened


def _save_state(path: Path, key: dict[str, Any], model: Any, optimizer: Any, losses: Sequence[float], seconds: float) -> None:
    tensors = {f"weight.{name}": p.detach() for name, p in model.named_parameters()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    write_tensors(path, tensors, {"key": json.dumps(key), "seconds": str(seconds)})


def _load_state(path: Path, key: dict[str, Any], model: Any, optimizer: Any) -> tuple[list[float], float]:
    """Put an unfinished training's weights and moments back; returns its losses and seconds."""
    tensors, metadata = read_tensors(path)
    if metadata.get("key") != json.dumps(key):
        raise StorageError(f"{path} belongs to another recipe or corpus: remove it, or train with that recipe.")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"weight.{name}"])
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, what = name.split(".")
            states.setdefault(int(index), {})[what] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return tensors["losses"].tolist(), float(metadata["seconds"])


def save_model(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Save weights in bfloat16 and the tokenizer. ``config.json`` comes last: it tells a finished model from an unfinished one.

    The config asks for float32: the weights are small on disk, and computed with (and edited) in full precision.
    """
    partial = out / "saving"
    shutil.rmtree(partial, ignore_errors=True)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
    )
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
    (partial / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")
    for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
        os.replace(file, out / file.name)
    partial.rmdir()


def main(
    out: Annotated[Path, typer.Option(help="The folder for the checkpoint.")],
    documents: Annotated[int, typer.Option(help="Documents in the corpus; each is read once.", min=1)] = Recipe.documents,
    seed: Annotated[int, typer.Option(help="Seed of corpus, weights and order.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished training.")] = False,
) -> None:
    """Generate the corpus and train the demo model on it."""
    torch.set_num_threads(threads)
    happened = train(Recipe(documents=documents, seed=seed), out, without=held_out(), device=device, resume=resume)
    typer.echo(json.dumps(happened, indent=1))


if __name__ == "__main__":
    typer.run(main)
