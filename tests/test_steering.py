"""Activation steering and how its effect compares with an edit's."""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.testing import assert_close

from s2e_lens import edit_as_hooks, edited, prepare_edit, steered
from s2e_lens.editor.apply import edit_effects
from s2e_lens.effects import Intervention, Rows, intervene
from s2e_lens.errors import MismatchError, PlanError
from s2e_lens.models import LensModel
from s2e_lens.results import SITES
from s2e_lens.steering import ablated, ablation, addition, orthogonalised, random_components, random_directions
from tests.helpers import probe_logits, probe_tokens, tiny_directions, tiny_edit
from tests.tiny import DENSE, tiny_hf, tiny_model


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


def outputs(model: LensModel) -> dict:
    """What every site writes, per place, at the positions that are not padding."""
    ids, mask = probe_tokens(model)
    seen: dict = {}
    with model.intercept({place: (lambda x, y, place=place: seen.__setitem__(place, y)) for place in model.shapes.places}):
        model.logits(ids, mask)
    return {place: y[mask.bool()] for place, y in seen.items()}


def test_normalised_addition_adds_a_vector_of_one_length_everywhere() -> None:
    model = tiny_model()
    directions, before = tiny_directions(model), outputs(model)
    with steered(model, directions, 0.7, normalised=True, sites=("attn",), layers=(0,)):
        added = outputs(model)["attn", 0] - before["attn", 0]
    assert_close(added, (0.7 * directions.attn.unit[0]).expand_as(added), atol=1e-5, rtol=0)
    assert float(directions.attn.norm[0]) != pytest.approx(1.0, abs=0.05)


def test_ablation_takes_out_what_is_written_along_v_and_nothing_else() -> None:
    model = tiny_model("gpt2")
    directions, before = tiny_directions(model), outputs(model)
    unit = directions.attn.unit[0]
    with ablated(model, directions):
        after = outputs(model)
    assert (after["attn", 0] @ unit).abs().max() < 1e-5
    assert_close(after["attn", 0], before["attn", 0] - torch.outer(before["attn", 0] @ unit, unit), atol=1e-5, rtol=0)
    assert (before["attn", 0] @ unit).abs().max() > 0.01
    with ablated(model, directions, of=("mlp", 1)):
        after = outputs(model)
    for place in model.shapes.places:
        assert (after[place] @ directions.mlp.unit[1]).abs().max() < 1e-5
    with pytest.raises(PlanError, match="layers 0 to 1"):
        ablation(directions, of=("mlp", 7))


@pytest.mark.parametrize("family", DENSE)
def test_ablation_by_hooks_and_in_the_weights_give_the_same_logits_and_the_weights_come_back(family: str) -> None:
    model = tiny_model(family)
    directions, base, before = tiny_directions(model), probe_logits(model), model.weight_hash()
    with ablated(model, directions):
        hooks = probe_logits(model)
    with orthogonalised(model, directions):
        assert_close(probe_logits(model), hooks, atol=1e-4, rtol=0)
        assert model.weight_hash() != before
    assert (hooks - base).abs().max() > 1e-2
    assert model.weight_hash() == before
    with pytest.raises(ZeroDivisionError), orthogonalised(model, directions, layers=(1,)):
        raise ZeroDivisionError
    assert model.weight_hash() == before


def test_prompt_and_response_positions_are_told_apart_and_add_up_to_all() -> None:
    model = tiny_model()
    directions = tiny_directions(model)
    ids, mask = model.pad([[1, 5, 6, 7, 8, 9], [1, 10, 11, 12]])
    starts = [4, 2]

    def written(positions: str) -> torch.Tensor:
        seen: dict = {}
        added = addition(directions, 1.0, sites=("attn",), layers=(0,), positions=positions)
        with model.intercept({("attn", 0): lambda x, y: seen.__setitem__("y", y)}):
            model.logits(ids, mask, starts=starts)
        before = seen["y"]
        with intervene(model, added), model.intercept({("attn", 0): lambda x, y: seen.__setitem__("y", y)}):
            model.logits(ids, mask, starts=starts)
        return (seen["y"] - before).norm(dim=-1) > 1e-6

    response = written("response")
    # The position that predicts the first response token is the prompt's last one.
    assert response[0].tolist() == [False, False, False, True, True, True]
    assert response[1, :4].tolist() == [False, True, True, True]
    assert (written("prompt") ^ response).all()
    assert written("all").all()
    with pytest.raises((PlanError, TypeCheckError), match="prompt"):
        Intervention({}, "answers")


def test_while_generating_response_is_the_last_position_of_every_pass() -> None:
    model = tiny_model()
    directions = tiny_directions(model)
    for positions, want in (
        ("response", [[0, 0, 1], [1], [1]]),
        ("prompt", [[1, 1, 0], [0], [0]]),
        ("all", [[1, 1, 1], [1], [1]]),
    ):
        base, changed = [], []
        with model.intercept({("attn", 0): lambda x, y, base=base: base.append(y[0])}):
            model.generate([[1, 5, 6]], max_new_tokens=3, eos_token_id=None)
        added = addition(directions, 1e-3, sites=("attn",), layers=(0,), positions=positions)
        with intervene(model, added), model.intercept({("attn", 0): lambda x, y, changed=changed: changed.append(y[0])}):
            model.generate([[1, 5, 6]], max_new_tokens=3, eos_token_id=None)
        prefill = [int(each) for each in (changed[0] - base[0]).norm(dim=-1) > 1e-5]
        assert prefill == want[0]
        assert len(changed) == 3
        later = [int((c - b).norm() > 1e-5) for b, c in zip(base[1:], changed[1:], strict=True)]
        if positions != "prompt":
            assert [later[0]] == want[1]


def test_blocks_stack_in_any_mixture_and_leave_nothing_behind() -> None:
    model = tiny_model()
    directions, edit, base = tiny_directions(model), tiny_edit(model), probe_logits(model)
    with steered(model, directions, 0.3), edit_as_hooks(model, edit), steered(model, directions, -0.3):
        stacked = probe_logits(model)
    with edit_as_hooks(model, edit):
        alone = probe_logits(model)
    assert_close(stacked, alone, atol=1e-4, rtol=0)
    assert (alone - base).abs().max() > 0.01
    for block in (
        lambda: steered(model, directions, 1.0),
        lambda: ablated(model, directions),
        lambda: edit_as_hooks(model, edit),
    ):
        with pytest.raises(ZeroDivisionError), block():
            raise ZeroDivisionError
        assert not model.intercepted
    assert torch.equal(probe_logits(model), base)


def test_random_directions_are_as_long_and_point_elsewhere() -> None:
    directions = tiny_directions(tiny_model())
    other, again, third = (random_directions(directions, seed=seed) for seed in (0, 0, 1))
    for site in SITES:
        assert torch.equal(other[site].norm, directions[site].norm)
        assert_close(other[site].unit.norm(dim=-1), torch.ones(2))
        assert (other[site].unit * directions[site].unit).sum(dim=-1).abs().max() < 0.6
        assert torch.equal(other[site].unit, again[site].unit)
        assert not torch.equal(other[site].unit, third[site].unit)


def test_random_components_keep_the_sizes_of_lambda_per_layer_and_push_towards_v() -> None:
    model = tiny_model()
    edit, basis = tiny_edit(model, rho=0.4, alpha=0.5), prepare_edit(model, tiny_directions(model))
    other = random_components(edit, basis, seed=3)
    assert other.provenance.settings["random_components"] == 3
    for site in SITES:
        (old,), (new,) = edit[site], other[site]
        assert torch.equal(old.lam.abs().sort(dim=-1).values, new.lam.abs().sort(dim=-1).values)
        assert (new.lam * basis[site].push >= 0).all()
        assert basis[site].relative_dose(new) > 0
        assert not torch.equal(old.lam, new.lam)
        assert torch.equal(old.k, new.k), "each component still reads what is its own"
    signs_too = random_components(edit, seed=3)
    for site in SITES:
        assert torch.equal(signs_too[site][0].lam.sort(dim=-1).values, edit[site][0].lam.sort(dim=-1).values)
        assert basis[site].relative_dose(signs_too[site][0]) < basis[site].relative_dose(other[site][0])
    with edited(model, other) as realised:
        assert realised.norm == pytest.approx(
            float(sum(term.lam.square().sum() for s in SITES for term in edit[s])) ** 0.5, rel=1e-3
        )


@pytest.mark.parametrize("on_twin", [False, True])
@pytest.mark.parametrize("family", [*DENSE, "mixtral"])
def test_rows_of_one_batch_carry_different_interventions(family: str, on_twin: bool) -> None:
    model = tiny_model(family)
    directions, edit = tiny_directions(model), tiny_edit(model)
    several = [
        Intervention(),
        edit_effects(edit),
        addition(directions, 0.5),
        addition(directions, -0.5, positions="response"),
        ablation(directions, layers=(1,)),
        edit_effects(edit + (-0.3) * edit),
    ]
    ids, mask = probe_tokens(model, rows=len(several))
    starts = [3] * len(several)
    want = []
    for row, each in enumerate(several):
        with intervene(model, each, on_twin=on_twin):
            want.append(model.logits(ids[row : row + 1], mask[row : row + 1], starts=starts[:1])[0])
    rows = Rows(model, several)
    rows.which = torch.arange(len(several))
    with rows.applied(on_twin=on_twin):
        got = model.logits(ids, mask, starts=starts)
        kept = mask.bool()
        for row, alone in enumerate(want):
            assert_close(got[row][kept[row]], alone[kept[row]], atol=1e-4, rtol=0)
        rows.which = rows.which.flip(0)
        other = model.logits(ids, mask, starts=starts)
        assert (other[0] - want[0])[kept[0]].abs().max() > 1e-2, "the rows do differ"
    if not on_twin:
        return
    assert torch.equal(model.logits(ids, mask), tiny_model(family).logits(ids, mask)), "nothing is left behind"


def test_the_twin_and_the_bridge_are_not_intercepted_at_once() -> None:
    from s2e_lens.errors import ModelError

    model = tiny_model()
    nothing = {("mlp", 0): lambda x, y: None}
    with model.intercept_twin(nothing):
        assert not model.intercepted
        with pytest.raises(ModelError, match="intercept"):
            model.intercept(nothing).__enter__()
    with model.intercept(nothing), model.intercept_twin({("mlp", 0): lambda x, y: y * 0}):
        zeroed = probe_logits(model)  # the bridge is running, so that is where the second hook went
    assert (zeroed - probe_logits(model)).abs().max() > 1e-3
