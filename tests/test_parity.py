"""Agreement with the published implementation on five architectures, through the Python API."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from s2e_lens import collect_means, edit_as_hooks, edited, find_directions, load_model, plan_edit, prepare_edit, read_examples
from s2e_lens import tokenize_examples as tokenize
from s2e_lens.results import SITES
from tests.tiny import PARITY, needs_parity

PROJECTIONS = {"attn": "o_proj", "mlp": "down_proj"}


@needs_parity
@pytest.mark.parametrize("case", ["llama", "mistral", "gemma2", "qwen2", "qwen3"])
def test_directions_lambdas_weights_and_logits_are_the_published_ones(case: str) -> None:
    folder = PARITY / case
    model = load_model(folder / "model")
    means = collect_means(model, tokenize(model, read_examples(folder / "examples.jsonl")))
    directions = find_directions(means)
    golden, expected = load_file(folder / "directions.safetensors"), load_file(folder / "expected.safetensors")
    for site in SITES:
        for layer in range(model.shapes.n_layers):
            assert_close(directions[site].vectors[layer], golden[f"output.direction.{site}.{layer}"], atol=1e-6, rtol=0)
            for label, key in (("positive", "pos_mean"), ("negative", "neg_mean")):
                inputs = getattr(means, label)[site].inputs[layer].flatten().float()
                assert_close(inputs, golden[f"input.{key}.{site}.{layer}"], atol=1e-6, rtol=0)
    basis = prepare_edit(model, directions)
    ids = expected["input_ids"]
    mask = torch.ones_like(ids)
    assert_close(model.logits(ids, mask), expected["logits.base"], atol=2e-4, rtol=0)
    for setting in json.loads((folder / "grid.json").read_text()):
        i = setting["index"]
        rhos = {f"rho_{site}": setting[f"rho_{site}"] for site in SITES if setting[f"rho_{site}"] > 0}
        edit = plan_edit(basis, **rhos, alpha=setting["alpha"])
        assert (edit.count("attn"), edit.count("mlp")) == (
            int((expected[f"lambda_attn.{i}"] != 0).sum()),
            int((expected[f"lambda_mlp.{i}"] != 0).sum()),
        )
        for term in edit.attn:
            assert_close(term.lam, expected[f"lambda_attn.{i}"], atol=3e-5, rtol=0)
        for term in edit.mlp:  # their convention: λ times the sign of W_out · v̂
            assert_close(term.lam * term.k[..., 0], expected[f"lambda_mlp.{i}"], atol=3e-5, rtol=0)
        with edited(model, edit):
            for site, layer in model.shapes.places:
                got = model.weight(site, layer).detach().flatten(0, 1).T
                assert_close(got, expected[f"{PROJECTIONS[site]}.{i}.{layer}"], atol=3e-5, rtol=0)
            assert_close(model.logits(ids, mask), expected[f"logits.{i}"], atol=2e-4, rtol=0)
        with edit_as_hooks(model, edit):
            hooked = model.logits(ids, mask)
        assert_close(hooked, expected[f"logits.{i}"], atol=2e-4, rtol=0)
        # Negative controls: the unedited model, and the same edit with λ of the other sign.
        assert (model.logits(ids, mask) - expected[f"logits.{i}"]).abs().max() > 0.1
        with edited(model, -1.0 * edit):
            assert (model.logits(ids, mask) - expected[f"logits.{i}"]).abs().max() > 0.1
