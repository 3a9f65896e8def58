"""Planning, applying, reverting and composing edits."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from s2e_lens import edit_as_hooks, edited, plan_edit, prepare_edit
from s2e_lens.editor import elastic_net, leave_out, plan_to_count, plan_to_dose
from s2e_lens.errors import FrameError, MismatchError, ModelError, NotEditableError, PlanError, ShapeError
from s2e_lens.models.bridge import BridgeModel
from s2e_lens.results import SITES, Edit
from tests.helpers import probe_logits, tiny_directions, tiny_edit
from tests.tiny import tiny_model


@given(st.floats(-1, 1), st.floats(0.01, 3), st.floats(0, 0.99))
@settings(max_examples=200, deadline=None)
def test_lambda_maximises_the_elastic_net_objective(g: float, rho: float, alpha: float) -> None:
    def objective(lam: float) -> float:
        return g * lam - rho * (alpha * abs(lam) + (1 - alpha) / 2 * lam**2)

    lam = float(elastic_net(torch.tensor([g], dtype=torch.float64), rho=rho, alpha=alpha)[0])
    best = objective(lam)
    for step in (1e-3, 1e-2, 0.1, 1.0):
        assert objective(lam + step) <= best + 1e-12
        assert objective(lam - step) <= best + 1e-12
    if abs(g) <= rho * alpha:
        assert lam == 0


@pytest.mark.parametrize(
    ("rho", "alpha"), [(0, 0.5), (-1, 0.5), (math.nan, 0.5), (math.inf, 0.5), (1, 1), (1, -0.1), (1, math.nan)]
)
def test_settings_outside_their_range_are_refused(rho: float, alpha: float) -> None:
    with pytest.raises(PlanError, match="got"):
        elastic_net(torch.ones(3), rho=float(rho), alpha=float(alpha))


def test_the_edit_is_the_outer_product_that_the_method_states() -> None:
    """ΔW_i = λ_i k_i uᵀ, component by component, against the weights before."""
    model = tiny_model("gpt2")
    directions, edit = tiny_directions(model), tiny_edit(model)
    before = {place: model.weight(*place).detach().clone() for place in model.shapes.editable_places}
    (heads,), (neurons,) = edit.attn, edit.mlp
    with edited(model, edit):
        change = {place: model.weight(*place).detach() - before[place] for place in before}
    for layer in range(2):
        for head in range(4):
            read = before["attn", layer][head] @ directions.attn.unit[layer]
            want = heads.lam[layer, head] * torch.outer(read / read.norm(), directions.attn.unit[layer])
            assert_close(change["attn", layer][head], want, atol=1e-6, rtol=1e-5)
        for neuron in range(0, 192, 13):
            sign = torch.sign(before["mlp", layer][neuron, 0] @ directions.mlp.unit[layer])
            want = neurons.lam[layer, neuron] * sign * directions.mlp.unit[layer]
            assert_close(change["mlp", layer][neuron, 0], want, atol=1e-6, rtol=1e-5)


def test_an_edit_multiplies_a_components_own_writing_along_v() -> None:
    """METHOD: the gain on what a component writes along v̂ is 1 + λ / ‖W v̂‖, and nothing else changes."""
    model = tiny_model()
    basis, edit = prepare_edit(model, tiny_directions(model)), tiny_edit(model)
    (heads,) = edit.attn
    unit = basis.attn.u[1]
    before = model.W_O[1].detach().clone()
    with edited(model, edit):
        after = model.W_O[1].detach().clone()
    gain = 1 + heads.lam[1] / basis.attn.reach[1]
    assert_close((after @ unit), (before @ unit) * gain[:, None], atol=1e-5, rtol=1e-4)
    off = before - (before @ unit)[..., None] * unit
    assert_close(after - (after @ unit)[..., None] * unit, off, atol=1e-5, rtol=0)


def test_every_edited_component_pushes_towards_v_on_average() -> None:
    model = tiny_model()
    basis = prepare_edit(model, tiny_directions(model))
    edit = plan_edit(basis, rho_attn=0.3, rho_mlp=0.3, alpha=0.1)
    for site in SITES:
        (term,) = edit[site]
        assert (term.lam * basis[site].push >= -1e-7).all()
        assert (term.lam != 0).any()
        assert (term.lam < 0).any()  # so that the sign of λ alone would not show it


def test_the_dose_is_the_mean_change_of_the_output_along_v() -> None:
    """Measured: run the hook form over the examples and compare the mean raw output with the unedited one."""
    from tests.helpers import tiny_means

    model = tiny_model()
    directions = tiny_directions(model)
    basis = prepare_edit(model, directions)
    edit = plan_edit(basis, rho_mlp=0.3, alpha=0.1)
    (term,) = edit.mlp
    first_layer_only = dataclasses.replace(edit, mlp=(dataclasses.replace(term, lam=term.lam * torch.tensor([[1.0], [0.0]])),))
    with edit_as_hooks(model, first_layer_only):
        changed = tiny_means(model)
    change = (changed.outputs("mlp") - directions.means.outputs("mlp"))[0] @ directions.mlp.unit[0].double()
    assert float(change) == pytest.approx(float(basis.mlp.dose(term)[0]), abs=1e-4)
    assert float(change) > 0.01


def test_a_site_without_rho_is_left_alone() -> None:
    model = tiny_model()
    basis = prepare_edit(model, tiny_directions(model))
    only_heads = plan_edit(basis, rho_attn=0.2, alpha=0.1)
    assert only_heads.mlp == ()
    assert {site for site, _ in only_heads.touched()} == {"attn"}
    with pytest.raises(PlanError, match="both sites"):
        plan_edit(basis, alpha=0.1)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("dose", [0.05, 1.0, 4.0])
def test_a_planned_dose_is_reached(dose: float, relative: bool) -> None:
    model = tiny_model()
    basis = prepare_edit(model, tiny_directions(model))
    edit = plan_to_dose(basis, dose, alpha=0.2, relative=relative)
    for site in SITES:
        assert basis[site].relative_dose(edit[site][0]) == pytest.approx(dose, rel=1e-3)
    only = plan_to_dose(basis, {"mlp": dose}, alpha=0.2, relative=relative)
    assert only.attn == ()
    assert torch.equal(only.mlp[0].lam, edit.mlp[0].lam)


def test_an_unreachable_or_negative_dose_is_refused() -> None:
    model = tiny_model()
    basis = prepare_edit(model, tiny_directions(model))
    with pytest.raises(PlanError, match="positive"):
        plan_to_dose(basis, -1.0)
    silent = dataclasses.replace(basis.mlp, push=torch.zeros_like(basis.mlp.push))
    with pytest.raises(PlanError, match="no rho gives dose"):
        plan_to_dose(dataclasses.replace(basis, mlp=silent), {"mlp": 1.0})


@pytest.mark.parametrize(("heads", "neurons"), [(1, 1), (3, 17), (8, 160), (None, 5), (2, None)])
def test_a_planned_count_is_reached_by_the_highest_scores(heads: int | None, neurons: int | None) -> None:
    model = tiny_model()
    basis = prepare_edit(model, tiny_directions(model))
    edit = plan_to_count(basis, heads=heads, neurons=neurons, alpha=0.5)
    for site, count in (("attn", heads), ("mlp", neurons)):
        assert edit.count(site) == (count or 0)
        if count:
            chosen, scores = edit[site][0].lam != 0, basis[site].g.abs()
            assert scores[chosen].min() >= scores[~chosen].max() if (~chosen).any() else True


def test_a_count_that_cannot_be_is_refused() -> None:
    basis = prepare_edit(tiny_model(), tiny_directions(tiny_model()))
    for wrong in ({"heads": 9}, {"heads": 0}, {"neurons": 161}):
        with pytest.raises(PlanError, match="there are"):
            plan_to_count(basis, **wrong)
    with pytest.raises(PlanError, match="alpha = 0"):
        plan_to_count(basis, heads=1, alpha=0.0)


def test_the_relative_plan_gives_the_same_gains_whatever_the_scale_of_the_weights() -> None:
    model, scaled = tiny_model(), tiny_model()
    with torch.no_grad():
        for layer in range(2):
            scaled.weight("mlp", layer).mul_(3.0)
    bases = [prepare_edit(each, tiny_directions(model), force=True) for each in (model, scaled)]
    gains = [plan_edit(b, rho_mlp=0.3, alpha=0.1, relative=True).mlp[0].lam / b.mlp.reach for b in bases]
    assert_close(gains[0], gains[1], atol=1e-5, rtol=1e-4)
    absolute = [plan_edit(b, rho_mlp=0.3, alpha=0.1).mlp[0].lam / b.mlp.reach for b in bases]
    assert (absolute[0] - absolute[1]).abs().max() > 0.1


def test_planning_changes_nothing() -> None:
    model = tiny_model()
    before = model.weight_hash()
    tiny_edit(model)
    assert model.weight_hash() == before
    with edited(model, tiny_edit(model)):
        assert model.weight_hash() != before


def test_the_weights_come_back_after_an_exception_inside_the_block() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    edit, before = tiny_edit(model), model.weight_hash()
    with pytest.raises(ZeroDivisionError), edited(model, edit):
        assert model.weight_hash() != before
        _ = 1 / 0
    assert model.weight_hash() == before


def test_the_weights_come_back_after_an_exception_while_the_edit_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    from s2e_lens.editor import apply

    model = tiny_model()
    edit, before, fold, calls = tiny_edit(model), model.weight_hash(), apply._fold, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return fold(*args)

    monkeypatch.setattr(apply, "_fold", failing)
    with pytest.raises(RuntimeError, match="out of memory"), edited(model, edit):
        pass
    assert model.weight_hash() == before
    assert len(calls) == 3


def test_adding_and_subtracting_would_not_restore_the_weights() -> None:
    """Why weights are copied back: the negative control of the two tests above."""
    model = tiny_model(dtype=torch.bfloat16)
    edit = tiny_edit(model)
    weight, term = model.weight("mlp", 0).detach()[:, 0].clone(), edit.mlp[0]
    delta = torch.outer(term.factor(0), term.u[0]).to(torch.bfloat16)
    assert not torch.equal((weight + delta) - delta, weight)
    with pytest.raises(PlanError, match="copies the old weights back"):
        _ = edit - edit


def test_in_bfloat16_the_update_is_rounded_once_and_the_report_says_what_was_lost() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    edit = 0.02 * tiny_edit(model)
    before = {place: model.weight(*place).detach().clone() for place in edit.touched()}
    with edited(model, edit) as realised:
        after = {place: model.weight(*place).detach().clone() for place in before}
    planned = torch.cat([torch.outer(edit[s][0].factor(n), edit[s][0].u[n]).flatten() for s, n in before])
    got = torch.cat([(after[p].float() - before[p].float()).flatten() for p in before])
    assert realised.fraction == pytest.approx(float(got @ planned / planned.square().sum()), rel=1e-3)
    assert realised.relative_error == pytest.approx(float((got - planned).norm() / planned.norm()), rel=1e-3)
    assert realised.relative_error > 0.02
    for place, old in before.items():
        delta = torch.outer(edit[place[0]][0].factor(place[1]), edit[place[0]][0].u[place[1]])
        want = (old.flatten(0, 1).float() + delta).to(torch.bfloat16)
        assert torch.equal(after[place].flatten(0, 1), want)
    with edited(tiny_model(), 0.02 * tiny_edit(tiny_model())) as exact:
        assert exact.relative_error < 1e-4


def test_edits_add_and_scale_like_their_updates() -> None:
    model = tiny_model()
    a, b = tiny_edit(model), tiny_edit(model, rho=0.7, alpha=0.0)
    start = model.W_out[0].detach().clone()

    def change(edit: Edit) -> torch.Tensor:
        with edited(model, edit):
            return model.W_out[0].detach() - start

    assert_close(change(a + b), change(a) + change(b), atol=1e-6, rtol=0)
    assert_close(change(0.25 * a), 0.25 * change(a), atol=1e-6, rtol=0)
    assert_close(change(a * -1.0), -change(a), atol=1e-6, rtol=0)
    assert not torch.equal(change(a), change(b))
    assert (a + b).count("mlp") >= max(a.count("mlp"), b.count("mlp"))


def test_an_edit_on_top_of_an_edit_is_refused_unless_forced() -> None:
    model = tiny_model()
    edit = tiny_edit(model)
    with edited(model, edit):
        with pytest.raises(MismatchError, match="force"), edited(model, edit):
            pass
        once = model.W_out[0].detach().clone()
        with edited(model, edit, force=True):
            assert not torch.equal(model.W_out[0], once)
        assert torch.equal(model.W_out[0], once)


def test_an_edit_of_other_weights_is_refused_unless_forced() -> None:
    edit, other = tiny_edit(tiny_model(seed=0)), tiny_model(seed=1)
    with pytest.raises(MismatchError, match="planned on weights"), edited(other, edit):
        pass
    with pytest.raises(MismatchError, match="planned on weights"):
        edit_as_hooks(other, edit)
    before = probe_logits(other)
    with edited(other, edit, force=True):
        assert not torch.equal(probe_logits(other), before)


def test_an_edit_of_another_shape_is_refused_even_when_forced() -> None:
    with (
        pytest.raises(ShapeError, match="Plan it on this model"),
        edited(tiny_model("gpt2"), tiny_edit(tiny_model()), force=True),
    ):
        pass


def test_edits_of_different_models_do_not_add() -> None:
    with pytest.raises(MismatchError, match="different models"):
        _ = tiny_edit(tiny_model(seed=0)) + tiny_edit(tiny_model(seed=1))


def test_neurons_of_a_mixture_of_experts_are_refused_and_heads_work() -> None:
    model = tiny_model("mixtral")
    basis = prepare_edit(model, tiny_directions(model))
    with pytest.raises(NotEditableError, match="mixture of experts"):
        plan_edit(basis, rho_attn=0.2, rho_mlp=0.2, alpha=0.1)
    with pytest.raises(NotEditableError, match="mixture of experts"):
        plan_to_count(basis, neurons=3)
    before = probe_logits(model)
    with edited(model, plan_to_dose(basis, 1.0)):
        assert (probe_logits(model) - before).abs().max() > 0.01


def test_a_weight_that_cannot_be_viewed_as_one_matrix_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    edit = tiny_edit(model)
    weight = BridgeModel.weight
    monkeypatch.setattr(
        BridgeModel, "weight", lambda self, *place: weight(self, *place).transpose(0, 1).contiguous().transpose(0, 1)
    )
    with pytest.raises(FrameError, match="one matrix"), edited(model, edit, force=True):
        pass


def test_results_show_shapes_and_not_numbers() -> None:
    model = tiny_model()
    with edited(model, tiny_edit(model)) as realised:
        shown = [repr(each) for each in (tiny_directions(model), tiny_edit(model), realised, model)]
    assert all(len(each) < 4000 for each in shown)
    assert "f32[2,48]" in shown[0]
    assert shown[2].startswith("Realised(fraction=1.0")
    assert "n_layers=2" in shown[3]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_in_bfloat16_the_hook_form_adds_in_float32_and_rounds_once(family: str) -> None:
    """y' of the hooks is round(float32(y) + x·(λk) u), to the bit; adding in bfloat16 is another number."""
    model, seen = tiny_model(family, torch.bfloat16), {}
    edit = tiny_edit(model)

    def keep(name):
        return lambda x, y: seen.__setitem__(name, (x, y))

    with model.intercept({("mlp", 0): keep("before")}), edit_as_hooks(model, edit), model.intercept({("mlp", 0): keep("after")}):
        probe_logits(model)
    (x, y), (_, got) = seen["before"], seen["after"]
    term = edit.mlp[0]
    push = (x.flatten(-2).float() @ term.factor(0))[..., None] * term.u[0]
    want = (y.float() + push).to(torch.bfloat16)
    assert (got != want).float().mean() < 0.01  # sums in another order may round the other way now and then
    assert ((y + push.to(torch.bfloat16)) != want).float().mean() > 0.02


def test_autocast_around_an_edit_changes_no_weight() -> None:
    model = tiny_model()
    edit = tiny_edit(model)
    with edited(model, edit):
        want = model.W_out[0].detach().clone()
    with torch.autocast("cpu", dtype=torch.bfloat16), edited(model, edit) as realised:
        assert torch.equal(model.W_out[0], want)
        assert realised.relative_error < 1e-4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = tiny_edit_of(model, edit)
    assert_close(mixed.mlp[0].lam, edit.mlp[0].lam, atol=1e-6, rtol=0)


def tiny_edit_of(model, edit: Edit) -> Edit:
    """The same plan again, from directions that were found before."""
    rho, alpha = edit.provenance.settings["rho_mlp"], edit.provenance.settings["alpha"]
    with torch.autocast("cpu", enabled=False):
        directions = tiny_directions(model)
    return plan_edit(prepare_edit(model, directions), rho_mlp=rho, alpha=alpha)


def test_gradients_flow_inside_the_block() -> None:
    model = tiny_model()
    ids = torch.tensor([[1, 5, 6]])
    with edited(model, tiny_edit(model)):
        model.twin(ids).logits.sum().backward()
    assert model.twin.get_input_embeddings().weight.grad.abs().sum() > 0


def test_an_interruption_while_the_weights_come_back_is_raised_when_they_are_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    edit, before, copy_, calls = tiny_edit(model), model.weight_hash(), torch.Tensor.copy_, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return copy_(self, *args)

    block = edited(model, edit)
    block.__enter__()
    monkeypatch.setattr(torch.Tensor, "copy_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        block.__exit__(None, None, None)
    monkeypatch.setattr(torch.Tensor, "copy_", copy_)
    assert model.weight_hash() == before
    assert len(calls) == 5


def test_nan_and_infinite_edits_never_reach_a_weight() -> None:
    model = tiny_model()
    edit, before = tiny_edit(model), model.weight_hash()
    with pytest.raises(PlanError, match="finite number"):
        _ = edit * float("nan")
    term = dataclasses.replace(edit.mlp[0], lam=edit.mlp[0].lam * float("nan"))
    broken = dataclasses.replace(edit, mlp=(term,))
    for use in (edited, edit_as_hooks):
        with pytest.raises(PlanError, match="NaN or infinity"), use(model, broken):
            pass
    half = tiny_model(dtype=torch.float16)
    unchanged = half.weight_hash()
    with pytest.raises(PlanError, match="too large for torch.float16"), edited(half, 1e6 * edit, force=True):
        pass
    assert (model.weight_hash(), half.weight_hash()) == (before, unchanged)


def test_a_sum_remembers_how_its_parts_were_scaled() -> None:
    model = tiny_model()
    edit = tiny_edit(model)
    parts = (2.0 * (edit + edit) + edit).provenance.settings["sum_of"]
    assert len(parts) == 2
    assert parts[0]["scale"] == 2
    assert len(((edit + edit) + edit).provenance.settings["sum_of"]) == 3


def test_components_that_are_left_out_keep_their_weights_and_are_on_record() -> None:
    model = tiny_model()
    edit = tiny_edit(model)
    head, neuron = (0, int(edit.attn[0].lam[0].abs().argmax())), (1, int(edit.mlp[0].lam[1].abs().argmax()))
    labels = [f"l{head[0]}h{head[1]}", f"L{neuron[0]}N{neuron[1]}"]
    less = leave_out(edit, labels)
    assert less.attn[0].lam[head] == 0 != edit.attn[0].lam[head]
    assert less.mlp[0].lam[neuron] == 0 != edit.mlp[0].lam[neuron]
    assert [less.count(site) for site in SITES] == [edit.count(site) - 1 for site in SITES]
    assert less.provenance.settings["left_out"] == sorted(label.upper() for label in labels)
    assert leave_out(less, ["L0N0"]).provenance.settings["left_out"] == sorted({"L0N0", *(each.upper() for each in labels)})
    assert leave_out(edit, []).provenance == edit.provenance
    before = model.weight("attn", head[0]).clone()
    with edited(model, less):
        assert torch.equal(model.weight("attn", head[0])[head[1]], before[head[1]])
        assert not torch.equal(model.weight("attn", head[0]), before)
    for wrong in ("L99H0", "L0H99", "L0X1", "", "L-1H0"):
        with pytest.raises((PlanError, ModelError)):
            leave_out(edit, [wrong])
