"""From examples to tokens and spans that fit a model."""

import dataclasses
import hashlib
from collections.abc import Sequence

from s2e_lens.behaviors.examples import AnyExample, TokenizedExample, raise_for_lines
from s2e_lens.errors import ExamplesError
from s2e_lens.models import LensModel


def tokenize_examples(model: LensModel, examples: Sequence[AnyExample], *, truncate: bool = False) -> list[TokenizedExample]:
    """Token ids and response spans of examples, checked against the model.

    With ``truncate``, an example that is longer than the model's context loses tokens from the front of its prompt (the
    first token, usually BOS, and the last one stay), and after that from the end of its response.

    Raises:
        ExamplesError: naming each line whose span is empty, whose ids the model does not know, whose border lies
            within a token, or that is longer than the context (unless ``truncate``).
    """
    found: list[TokenizedExample] = []
    wrong: list[str] = []
    for number, example in enumerate(examples, start=1):
        try:
            found.append(_tokenize(model, example, truncate=truncate))
        except ExamplesError as error:
            wrong.append(f"{f'line {example.line}' if example.line else f'example {number}'}: {error}")
    raise_for_lines(wrong, "examples")
    return found


def _tokenize(model: LensModel, example: AnyExample, *, truncate: bool) -> TokenizedExample:
    if not isinstance(example, TokenizedExample):
        ids, start = model.text.example_ids(example.prompt, example.response)
        if start < 1:
            raise ExamplesError("the prompt has no token and the tokenizer adds none: nothing predicts the response")
        example = TokenizedExample(example.label, tuple(ids), start, example.line)
    bad = [i for i in example.input_ids if i >= model.shapes.d_vocab]
    if bad:
        raise ExamplesError(f"token ids {bad[:5]} are outside the model's vocabulary of {model.shapes.d_vocab}")
    excess = len(example.input_ids) - model.shapes.n_ctx
    if excess <= 0:
        return example
    if not truncate:
        raise ExamplesError(
            f"{len(example.input_ids)} tokens do not fit the context of {model.shapes.n_ctx}. "
            "Shorten it, or ask for truncation (--truncate)"
        )
    cut = min(excess, max(0, example.start - 2))
    ids = (*example.input_ids[: 1 if cut else 0], *example.input_ids[(1 + cut) if cut else 0 :])[: model.shapes.n_ctx]
    start = example.start - cut
    if start >= len(ids):
        raise ExamplesError(f"a context of {model.shapes.n_ctx} has no room for a response token")
    return dataclasses.replace(example, input_ids=ids, start=start, cut=len(example.input_ids) - len(ids))


def hash_examples(examples: Sequence[TokenizedExample]) -> str:
    """A hash of labels, tokens and spans, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.label}|{example.start}|{','.join(map(str, example.input_ids))}\n".encode())
    return f"sha256:{digest.hexdigest()[:32]}"
