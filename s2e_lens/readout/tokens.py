"""Tokens as text: each with its own spaces and newlines, special tokens as they are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from s2e_lens.errors import ModelError
from s2e_lens.models import LensModel

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class TokenValue:
    """A token with a number: its logit, or its probability."""

    id: int
    token: str
    value: float


def token_strings(model: LensModel, ids: Sequence[int]) -> tuple[str, ...]:
    r"""The text of each token by itself: with the space before it, newlines as they are, ``<s>`` as ``<s>``.

    A token that is a part of a character shows its bytes, as ``\xe2\x80``; an id without a token shows as ``[1234]``. For
    labels, where spaces and newlines must be seen, see :func:`visible`.
    """
    tokenizer = model.text.tokenizer
    specials = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    known: dict[int, str] = {}
    for token in ids:
        if token not in known:
            known[token] = _own_text(tokenizer, token, special=token in specials)
    return tuple(known[token] for token in ids)


def _own_text(tokenizer: object, token: int, *, special: bool) -> str:
    piece = tokenizer.convert_ids_to_tokens(token) if 0 <= token < len(tokenizer) else None  # pyright: ignore
    if piece is None or piece == "":
        return f"[{token}]"
    if special:
        return piece

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)  # pyright: ignore

    # Some tokenizers drop the space at the head of a text: decoded after itself, a token keeps it.
    once, twice = decode([token]), decode([token, token])
    text = twice.removeprefix(once) if twice.startswith(once) else once
    if UNKNOWN not in text:
        return text or piece
    return _bytes(piece) if UNKNOWN not in piece else piece


@cache
def _byte_of() -> dict[str, int]:
    """The byte that each character of a byte-level piece stands for."""
    return {character: byte for byte, character in bytes_to_unicode().items()}


def _bytes(piece: str) -> str:
    """A byte-level piece that is no whole character, byte by byte; a piece of another kind (``<0xE2>``) as it is."""
    table = _byte_of()
    if piece.startswith("<0x") or not all(character in table for character in piece):
        return piece
    raw = bytes(table[character] for character in piece)
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in raw)


def visible(text: str) -> str:
    r"""A token for a label: spaces at its ends as ``·``, newlines as ``↵``, tabs as ``⇥``.

    >>> visible(" the"), visible("\n"), visible("a b"), visible("  ")
    ('·the', '↵', 'a b', '··')
    """
    inner = text.strip(" ")
    left = len(text) - len(text.lstrip(" "))
    shown = "·" * left + inner + "·" * (len(text) - left - len(inner)) if inner else "·" * len(text)
    return shown.replace("\r", "").replace("\n", "↵").replace("\t", "⇥") or "·"


def token_id(model: LensModel, text: str | int) -> int:
    """The id of the token that is written so, as :func:`token_strings` shows it: ``" sorry"``, ``"<s>"``.

    With and without a space before it are two texts, but for a tokenizer that reads both as the same token.

    Raises:
        ModelError: if no token is written so, or the id is not in the vocabulary.
    """
    if isinstance(text, int):
        if not 0 <= text < model.shapes.d_vocab:
            raise ModelError(f"token ids lie between 0 and {model.shapes.d_vocab - 1}; got {text}.")
        return text
    found = _one_token(model, text)
    if found is not None:
        return found
    ids = model.text.tokenizer(text, add_special_tokens=False)["input_ids"]
    parts = ", ".join(map(repr, token_strings(model, ids)))
    word = text.strip()
    near = [" " * space + each for each in (word, word.lower(), word.capitalize()) if each for space in (0, 1)]
    near = [each for each in dict.fromkeys(near) if each != text and _one_token(model, each) is not None]
    advice = f"Near it are the tokens {', '.join(map(repr, near))}." if near else "Name one token."
    count = f"{len(ids)} token{'' if len(ids) == 1 else 's'}"
    raise ModelError(f"no token is written {text[:60]!r}: it is read as {count} ({parts[:120]}). {advice} Spaces count.")


def _one_token(model: LensModel, text: str) -> int | None:
    """The id of the token of exactly this text."""
    tokenizer = model.text.tokenizer
    # Some tokenizers put a space in front of every text: they read a word as the token with a space, and one that goes on
    # another only by its piece.
    read = [tokenizer(each, add_special_tokens=False)["input_ids"] for each in (text, text.removeprefix(" ")) if each]
    for ids in [*read, [tokenizer.convert_tokens_to_ids(text.replace(" ", "\N{LOWER ONE EIGHTH BLOCK}"))]]:
        if len(ids) == 1 and ids[0] is not None and token_strings(model, ids) == (text,):
            return ids[0]
    # A tokenizer of whole words reads no space: a word is one token, with a space before it or without.
    word = text.removeprefix(" ")
    bare, spaced = (tokenizer(each, add_special_tokens=False)["input_ids"] for each in (word, f" {word}"))
    same = len(bare) == 1 and bare == spaced and token_strings(model, bare)[0] in (word, f" {word}")
    return bare[0] if same else None


def ranked(model: LensModel, values: Float[Tensor, " d_vocab"], count: int, *, largest: bool = True) -> tuple[TokenValue, ...]:
    """The tokens of largest (or smallest) value, in that order.

    Raises:
        ModelError: if the count is below 1.
    """
    if count < 1:
        raise ModelError(f"{count} tokens were asked for; ask for 1 or more.")
    found = torch.topk(values, min(count, len(values)), largest=largest)
    ids = found.indices.tolist()
    return tuple(map(TokenValue, ids, token_strings(model, ids), found.values.tolist()))
