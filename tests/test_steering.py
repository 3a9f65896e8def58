"""Activation steering and how its effect compares with an edit's."""

import pytest
import torch
from torch.testing import assert_close

from s2e_lens import steered
from s2e_lens.errors import MismatchError, PlanError
from tests.helpers import probe_logits, probe_tokens, tiny_directions
from tests.tiny import tiny_hf, tiny_model


def test_steering_adds_strength_times_v_at_every_site_of_a_plain_model() -> None:
    """An oracle without TransformerLens: the same vectors added by torch hooks to a plain Hugging Face model."""
    model, plain = tiny_model("gemma2"), tiny_hf("gemma2")
    directions = tiny_directions(model)
    for (site, layer), name in model.module_names.items():
        vector = 0.7 * directions[site].vectors[layer]
        plain.get_submodule(name).register_forward_hook(lambda m, a, y, vector=vector: y + vector)
    ids, mask = probe_tokens(model)
    with torch.no_grad():
        want = plain(ids, attention_mask=mask).logits[mask.bool()]
    base = probe_logits(model)
    with steered(model, directions, 0.7):
        assert_close(probe_logits(model), want, atol=1e-4, rtol=0)
    assert (want - base).abs().max() > 0.05
    assert torch.equal(probe_logits(model), base)


def test_strength_zero_equals_no_hooks_exactly() -> None:
    model = tiny_model()
    directions, base = tiny_directions(model), probe_logits(model)
    with steered(model, directions, 0.0):
        assert torch.equal(probe_logits(model), base)


def test_steering_can_be_kept_to_some_sites_and_layers() -> None:
    model = tiny_model()
    directions, seen = tiny_directions(model), {}
    with steered(model, directions, 1.0, sites=("mlp",), layers=(1,)):
        fns = {place: (lambda x, y, place=place: seen.__setitem__(place, y)) for place in model.shapes.places}
        with model.intercept(fns):
            probe_logits(model)
    steered_outputs, seen = dict(seen), {}
    with model.intercept({place: (lambda x, y, place=place: seen.__setitem__(place, y)) for place in model.shapes.places}):
        probe_logits(model)
    for place in model.shapes.places:
        change = (steered_outputs[place] - seen[place]).abs().max()
        assert (change > 0.1) == (place == ("mlp", 1))


def test_steering_fires_at_every_decoded_token() -> None:
    model = tiny_model()
    directions, widths = tiny_directions(model), []
    with model.intercept({("mlp", 0): lambda x, y: widths.append(y.shape[1])}), steered(model, directions, 3.0):
        model.generate([[1, 5, 6]], max_new_tokens=5, eos_token_id=None)
    assert widths == [3, 1, 1, 1, 1]


def test_directions_of_other_weights_are_refused() -> None:
    with pytest.raises(MismatchError, match="force"):
        steered(tiny_model(seed=1), tiny_directions(tiny_model(seed=0)), 1.0)


@pytest.mark.parametrize("wrong", [{"layers": (7,)}, {"layers": (-1,)}])
def test_a_layer_or_site_that_is_not_there_is_refused(wrong: dict) -> None:
    model = tiny_model()
    with pytest.raises(PlanError, match="layers 0 to 1"):
        steered(model, tiny_directions(model), 1.0, **wrong)
    with pytest.raises(PlanError, match="finite strength"):
        steered(model, tiny_directions(model), float("nan"))
