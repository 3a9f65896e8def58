"""Examples, directions and edits for tests on tiny models."""

import random

import torch

from s2e_lens import collect_means, find_directions, plan_edit, prepare_edit
from s2e_lens.behaviors import TokenizedExample
from s2e_lens.models import LensModel
from s2e_lens.results import Directions, Edit, Means
from tests.tiny import VOCABULARY


def tiny_examples(count: int = 12, *, seed: int = 0, longest: int = 20) -> list[TokenizedExample]:
    """Tokenised examples of random words and lengths, the two classes in turn and from different halves of the vocabulary."""
    choice = random.Random(seed)
    found = []
    for i in range(count):
        positive = i % 2 == 0
        words = range(4, VOCABULARY // 2) if positive else range(VOCABULARY // 2, VOCABULARY)
        length = choice.randint(4, longest)
        ids = (1, *(choice.choice(words) for _ in range(length - 1)))
        found.append(TokenizedExample("positive" if positive else "negative", ids, choice.randint(1, length - 1), line=i + 1))
    return found


def tiny_means(model: LensModel, **options: object) -> Means:
    return collect_means(model, tiny_examples(), **options)


def tiny_directions(model: LensModel) -> Directions:
    return find_directions(tiny_means(model))


def tiny_edit(model: LensModel, *, rho: float = 0.2, alpha: float = 0.2) -> Edit:
    """An edit of both sites (of the heads alone in a mixture of experts) that changes the logits visibly."""
    basis = prepare_edit(model, tiny_directions(model))
    return plan_edit(basis, rho_attn=rho, rho_mlp=rho if model.shapes.d_mlp else None, alpha=alpha)


def probe_tokens(model: LensModel, rows: int = 3, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Random token ids of several lengths, with their mask."""
    choice = random.Random(7)
    return model.pad([[1, *(choice.randrange(4, VOCABULARY) for _ in range(width - 1 - i))] for i in range(rows)])


def probe_logits(model: LensModel) -> torch.Tensor:
    """Logits at the positions that are not padding."""
    ids, mask = probe_tokens(model)
    return model.logits(ids, mask)[mask.bool()]
