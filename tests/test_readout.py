"""What is read of a text: each number against a plain Hugging Face model, or against what the edit itself does."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from s2e_lens import edit_as_hooks, edited, find_directions, steered
from s2e_lens.effects import intervene
from s2e_lens.errors import MismatchError, ModelError, PlanError, ShapeError
from s2e_lens.models import LensModel, TextCodec
from s2e_lens.readout import (
    ablation_effect,
    activations,
    component_tokens,
    direct_logits,
    firings,
    logit_effects,
    logit_lens,
    measure_scales,
    next_tokens,
    projections,
    token_id,
    token_strings,
    visible,
)
from s2e_lens.results import SITES
from s2e_lens.steering import component_ablation, random_directions
from tests.helpers import tiny_directions, tiny_edit, tiny_means
from tests.tiny import DENSE, FAMILIES, tiny_hf, tiny_model

IDS = [1, 9, 40, 77, 100, 12, 5, 63]
NORMS = {
    "llama": ("model.norm", None),
    "gpt2": ("transformer.ln_f", None),
    "mixtral": ("model.norm", None),
    "gemma2": ("model.norm", {"attn": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}),
    "olmo2": ("model.norm", {"attn": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}),
}


def plain_sites(family: str, model: LensModel, **options: bool) -> tuple[dict, torch.Tensor]:
    """What enters and leaves each projection of a plain model, and its logits, by torch hooks."""
    hf, seen = tiny_hf(family), {}
    for place, name in model.module_names.items():
        hf.get_submodule(name).register_forward_hook(lambda m, a, y, place=place: seen.__setitem__(place, (a[0][0], y[0])))
    with torch.no_grad():
        out = hf(torch.tensor([IDS]), output_hidden_states=True)
    return seen, out


# projections, firings, activations


@pytest.mark.parametrize("family", DENSE)
def test_projections_are_those_of_the_plain_models_raw_outputs(family: str) -> None:
    model = tiny_model(family)
    directions, (seen, out) = tiny_directions(model), plain_sites(family, model)
    got = projections(model, IDS, directions)
    for (site, layer), (_, y) in seen.items():
        assert_close(got[site][layer], y @ directions[site].unit[layer], atol=1e-4, rtol=1e-4)
    residual = projections(model, IDS, directions, of="residual")
    for site in SITES:
        want = out.hidden_states[1][0] @ directions[site].unit[0]
        assert_close(residual[site][0], want, atol=1e-4, rtol=1e-4)
        assert (residual[site][0] - got[site][0]).abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_projections_see_steering_to_the_length_of_what_is_added(family: str) -> None:
    model = tiny_model(family)
    directions = tiny_directions(model)
    before = projections(model, IDS, directions)
    with steered(model, directions, 0.7, normalised=True, sites=("mlp",), layers=(0,)):
        after = projections(model, IDS, directions)
    assert_close(after["mlp"][0] - before["mlp"][0], torch.full((len(IDS),), 0.7), atol=1e-4, rtol=0)
    assert torch.equal(after["attn"][0], before["attn"][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_firings_are_what_the_edit_adds_at_its_first_layer(family: str) -> None:
    """Σ_i firings_i u is the change that the edit makes to y, on inputs that no earlier edit has changed."""
    model = tiny_model(family)
    edit, fired, seen = tiny_edit(model), firings(model, IDS, tiny_edit(model)), {}
    assert set(fired) == ({"attn"} if family == "mixtral" else {"attn", "mlp"})
    first = {site: min(at for s, at in edit.touched() if s == site) for site in fired}
    for site in fired:
        place = (site, first[site])
        for name in ("before", "after"):
            alone = edit_only(edit, site, place[1])
            with ExitStack() as stack:
                if name == "after":
                    stack.enter_context(edit_as_hooks(model, alone))
                stack.enter_context(model.intercept({place: lambda x, y, name=name: seen.__setitem__(name, y[0])}))
                model.logits(*model.row(IDS))
        (term,) = edit[site]
        pushed = fired[site][place[1]].sum(dim=0)
        assert_close(pushed[:, None] * term.u[place[1]], seen["after"] - seen["before"], atol=1e-4, rtol=1e-4)
        assert pushed.abs().max() > 1e-2


def edit_only(edit, site, layer):
    """The edit of one place."""
    import dataclasses

    def kept(each, term):
        lam = torch.zeros_like(term.lam)
        if each == site:
            lam[layer] = term.lam[layer]
        return dataclasses.replace(term, lam=lam)

    return dataclasses.replace(edit, **{each: tuple(kept(each, term) for term in edit[each]) for each in SITES})


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_firings_equal_a_loop_over_components_of_the_plain_model(family: str) -> None:
    model = tiny_model(family)
    edit, (seen, _) = tiny_edit(model, rho=0.4, alpha=0.4), plain_sites(family, model)
    fired = firings(model, IDS, edit)
    for (site, layer), (x, _) in seen.items():
        (term,) = edit[site]
        parts = x.unflatten(-1, model.shapes.components(site))
        for i in range(parts.shape[1]):
            want = term.lam[layer, i] * (parts[:, i] @ term.k[layer, i])
            assert_close(fired[site][layer, i], want, atol=1e-4, rtol=1e-4)
    unedited = edit.attn[0].lam == 0
    assert unedited.any(), "some head is left alone"
    assert not fired["attn"][unedited].any()


def test_terms_of_one_direction_add_up_and_others_are_read_one_by_one() -> None:
    model = tiny_model()
    edit = tiny_edit(model)
    assert_close(firings(model, IDS, edit + 0.5 * edit)["mlp"], 1.5 * firings(model, IDS, edit)["mlp"])
    other = find_directions(tiny_means(model), method=lambda means, site: means.positive[site].outputs)
    from s2e_lens import plan_edit, prepare_edit

    both = edit + plan_edit(prepare_edit(model, other), rho_attn=0.2, alpha=0.2)
    with pytest.raises(PlanError, match="term=0, term=1"):
        firings(model, IDS, both)
    assert_close(firings(model, IDS, both, term=0)["attn"], firings(model, IDS, edit)["attn"])
    assert set(firings(model, IDS, both, sites=("mlp",))) == {"mlp"}
    with pytest.raises(PlanError, match="terms 0 to 1"):
        firings(model, IDS, both, term=2)


@pytest.mark.parametrize("family", DENSE)
def test_activations_are_what_enters_and_what_a_head_writes(family: str) -> None:
    model = tiny_model(family)
    seen, _ = plain_sites(family, model)
    got = activations(model, IDS, ["L1N7", "L0H2", "L1N7", "L1N0"])
    assert_close(got[0], seen["mlp", 1][0][:, 7], atol=1e-4, rtol=1e-4)
    assert_close(got[3], seen["mlp", 1][0][:, 0], atol=1e-4, rtol=1e-4)
    assert torch.equal(got[0], got[2])
    # The head's own part of the plain projection: everything but its z set to zero.
    z = seen["attn", 0][0].unflatten(-1, model.shapes.components("attn")).clone()
    z[:, [h for h in range(4) if h != 2]] = 0
    module = tiny_hf(family).get_submodule(model.module_names["attn", 0])
    with torch.no_grad():
        written = module(z.flatten(1)) - module(torch.zeros_like(z.flatten(1)))
    assert_close(got[1], written.norm(dim=-1), atol=1e-4, rtol=1e-4)


# next tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_next_tokens_are_the_plain_models_softmax(family: str) -> None:
    model = tiny_model(family)
    with torch.no_grad():
        want = tiny_hf(family)(torch.tensor([IDS])).logits[0, -1].softmax(dim=-1)
    got = next_tokens(model, IDS, top=5)
    assert_close(got.probabilities, want, atol=1e-5, rtol=0)
    assert [each.id for each in got.top] == want.topk(5).indices.tolist()
    assert [each.value for each in got.top] == pytest.approx(want.topk(5).values.tolist(), abs=1e-5)
    with edited(model, tiny_edit(model)):
        other = next_tokens(model, IDS)
    with edit_as_hooks(model, tiny_edit(model)):
        assert_close(next_tokens(model, IDS).probabilities, other.probabilities, atol=1e-4, rtol=0)
    assert (other.probabilities - want).abs().max() > 1e-3


def test_the_next_token_under_steering_of_responses_is_the_one_that_is_generated() -> None:
    model = tiny_model()
    directions = tiny_directions(model)
    base = next_tokens(model, IDS).top[0].id
    with steered(model, directions, 3.0, positions="response"):
        steered_next = next_tokens(model, IDS).top[0].id
        assert model.generate([IDS], max_new_tokens=1, eos_token_id=None) == [[steered_next]]
    assert steered_next != base


# the direct path


@contextmanager
def frozen(hf, family: str, model: LensModel, *, place, write) -> Iterator[None]:
    """A plain model whose norms keep the scales, and whose other sites the outputs, of a run without the write."""
    final, posts = NORMS[family]
    layers = hf.transformer.h if family == "gpt2" else hf.model.layers
    site, layer = place
    norms = {hf.get_submodule(final): model.final_norm}
    if posts:
        norms |= {getattr(layers[at], name): model.post_norm(s, at) for s, name in posts.items() for at in range(len(layers))}
    projections = {model.module_names[s, at]: (s, at) for s, at in model.shapes.editable_places}
    if family == "mixtral":
        projections |= {f"model.layers.{at}.mlp": ("mlp", at) for at in range(len(layers))}
    scales, outputs = {}, {}
    with ExitStack() as stack:
        for module, norm in norms.items():
            hook = module.register_forward_hook(lambda m, a, y, norm=norm: scales.__setitem__(m, norm.scale(a[0])))
            stack.callback(hook.remove)
        for name, at in projections.items():
            hook = hf.get_submodule(name).register_forward_hook(lambda m, a, y, at=at: outputs.__setitem__(at, y))
            stack.callback(hook.remove)
        base = hf(torch.tensor([IDS])).logits
    with ExitStack() as stack:
        for module, norm in norms.items():

            def fixed(m, a, y, norm=norm):
                return norm.linear(a[0]) / scales[m][..., None] + norm.bias

            stack.callback(module.register_forward_hook(fixed).remove)
        for name, at in projections.items():

            def kept(m, a, y, at=at):
                return outputs[at] + (write if at == place else 0)

            stack.callback(hf.get_submodule(name).register_forward_hook(kept).remove)
        yield SimpleNamespace(base=base)


@pytest.mark.parametrize("place", [("mlp", 1), ("attn", 1), ("attn", 0), ("mlp", 0)])
@pytest.mark.parametrize("family", NORMS)
def test_with_scales_frozen_a_write_changes_the_logits_by_the_lens(family: str, place: tuple) -> None:
    """On a plain model by torch hooks: for the last site the whole change; for others later sites are held as they were."""
    model, hf = tiny_model(family), tiny_hf(family)
    hf.config.final_logit_softcapping = None  # the soft cap is what the lens leaves out
    write = torch.randn(48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), frozen(hf, family, model, place=place, write=0.3 * write) as run:
        change = (hf(torch.tensor([IDS])).logits - run.base)[0]
    last = direct_logits(model, write, *place, scales=measure_scales(model, [IDS], last_only=True))
    assert_close(change[-1], 0.3 * last, atol=2e-4, rtol=1e-3)
    average = direct_logits(model, write, *place, scales=measure_scales(model, [IDS]))
    assert_close(change[1:].mean(dim=0), 0.3 * average, atol=2e-4, rtol=1e-3)
    assert change[-1].abs().max() > 0.01
    free = tiny_hf(family)  # negative control: with the scales left free the change is another one
    free.config.final_logit_softcapping = None
    name = model.module_names.get(place, f"model.layers.{place[1]}.mlp")
    with torch.no_grad():
        base = free(torch.tensor([IDS])).logits[0]
        free.get_submodule(name).register_forward_hook(lambda m, a, y: y + 0.3 * write)
        assert ((free(torch.tensor([IDS])).logits[0] - base)[-1] - 0.3 * last).abs().max() > 1e-3


def test_scales_are_averaged_over_positions_of_all_texts() -> None:
    model = tiny_model("gemma2")
    texts = [IDS, IDS[:5], IDS[:1]]
    one, two, three = (measure_scales(model, [text]) for text in texts)
    both = measure_scales(model, texts)
    assert (one.positions, two.positions, three.positions, both.positions) == (7, 4, 1, 12)
    for place in model.shapes.places:
        want = (7 * one.factors[place] + 4 * two.factors[place] + three.factors[place]) / 12
        assert both.factors[place] == pytest.approx(want)
    with pytest.raises(ModelError, match="0 texts"):
        measure_scales(model, [])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logit_lens_ranks_the_tokens_of_each_direction(family: str) -> None:
    model = tiny_model(family)
    directions = tiny_directions(model)
    scales = measure_scales(model, [IDS])
    lens, relative = logit_lens(model, directions, top=6, scales=scales), logit_lens(model, directions, top=6)
    assert lens.measured
    assert not relative.measured
    for site, layer in model.shapes.places:
        unit = directions[site].unit[layer]
        if not unit.any():
            assert (site, layer) not in lens.lenses
            continue
        found = lens[site, layer]
        logits = direct_logits(model, unit, site, layer, scales=scales)
        order = logits.sort(descending=True).indices.tolist()
        assert [each.id for each in found.promoted] == order[:6] == [each.id for each in relative[site, layer].promoted]
        assert [each.id for each in found.suppressed] == order[::-1][:6]
        for each in (*found.promoted, *found.suppressed):
            assert each.value == pytest.approx(float(logits[each.id] - logits.mean()), abs=1e-5)
            assert each.token == token_strings(model, [each.id])[0]
    assert len(lens.lenses) == len(model.shapes.places)


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_logit_lens_is_the_same_however_many_vectors_are_unembedded_at_once(at_once: int, monkeypatch) -> None:
    model = tiny_model("gemma2")
    directions, calls = tiny_directions(model), []
    directions.attn.unit[1] = 0
    whole, unembed = logit_lens(model, directions), model.unembed
    monkeypatch.setattr(model, "unembed", lambda x: calls.append(len(x)) or unembed(x))
    monkeypatch.setattr("s2e_lens.readout.logits.LOGITS", at_once * model.shapes.d_vocab)
    parts = logit_lens(model, directions)
    assert calls == ([1, 1, 1] if at_once == 1 else [3])
    assert list(parts.lenses) == list(whole.lenses) == [("attn", 0), ("mlp", 0), ("mlp", 1)]
    for place, lens in whole.lenses.items():
        assert [each.id for each in parts[place].promoted] == [each.id for each in lens.promoted]
        assert [each.value for each in parts[place].promoted] == pytest.approx([each.value for each in lens.promoted], abs=1e-5)


def test_a_component_promotes_what_its_average_write_promotes() -> None:
    model = tiny_model("gemma2")
    means, scales = tiny_means(model), measure_scales(model, [IDS])
    head = means.inputs("attn")[1, 2].float() @ model.W_O[1][2].detach()
    neuron = means.inputs("mlp")[0, 5].float() * model.W_out[0][5].detach()
    for label, write, site, layer in (("L1H2", head, "attn", 1), ("L0N5", neuron, "mlp", 0)):
        logits = direct_logits(model, write, site, layer, scales=scales)
        found = component_tokens(model, label, means, top=3, scales=scales)
        assert [each.id for each in found.promoted] == logits.topk(3).indices.tolist()
        assert found.promoted[0].value == pytest.approx(float(logits.max() - logits.mean()), abs=1e-5)
    means.positive.mlp.inputs[0, 5] = means.negative.mlp.inputs[0, 5] = 0
    means.positive.attn.inputs[1, 2] = means.negative.attn.inputs[1, 2] = 0
    silent = direct_logits(model, model.W_out[0][5].detach(), "mlp", 0)
    assert component_tokens(model, "L0N5", means, top=1).promoted[0].id == int(silent.argmax())
    assert component_tokens(model, "L1H2", means).promoted == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_logit_effects_add_up_to_the_direct_effect_of_the_edit(family: str) -> None:
    """Against what the edit itself adds when a site's inputs are the average ones."""
    model = tiny_model(family)
    edit, means, tokens = tiny_edit(model, rho=0.3, alpha=0.3), tiny_means(model), [4, 50, 127]
    scales = measure_scales(model, [IDS])
    found = logit_effects(model, edit, means, tokens, scales=scales)
    assert len(found.components) == edit.count("attn") + edit.count("mlp") == len({each.label for each in found.components})
    total = torch.zeros(3)
    for site, layer in edit.touched():
        x = means.inputs(site)[layer].float()
        delta = sum(term.factor(layer)[:, None] * term.u[layer] for term in edit[site])
        logits = direct_logits(model, x.flatten() @ delta, site, layer, scales=scales)
        here = (logits - logits.mean())[tokens]
        mine = [i for i, each in enumerate(found.components) if (each.site, each.layer) == (site, layer)]
        assert_close(found.effects[mine].sum(dim=0), here, atol=1e-5, rtol=1e-4)
        total += here
    assert_close(found.total, total, atol=1e-5, rtol=1e-4)
    assert total.abs().max() > 1e-3
    assert all(each.score >= 0 for each in found.components), "every component pushes towards +v on its average input"
    strongest = found.strongest(2)
    assert found.effects[strongest[0]].abs().max() == found.effects.abs().max()
    doubled = logit_effects(model, edit + edit, means, tokens, scales=scales)
    assert_close(doubled.effects, 2 * found.effects)
    assert doubled.components == tuple(
        each.__class__(each.site, each.layer, each.index, s.score)
        for each, s in zip(found.components, doubled.components, strict=True)
    )


# ablation


@pytest.mark.parametrize("family", DENSE)
def test_zero_ablation_is_the_model_with_the_rows_of_its_weights_set_to_zero(family: str) -> None:
    model, other = tiny_model(family), tiny_model(family)
    components = ["L0H1", "L1H3", "L1H0", "L0N3", "L0N79", "L0N3"]
    with torch.no_grad():
        for label in components:
            site, layer, index = other.shapes.locate(label)
            other.weight(site, layer)[index] = 0
    row, base = model.row(IDS), model.logits(*model.row(IDS))
    with intervene(model, component_ablation(model, components)):
        got = model.logits(*row)
    assert_close(got, other.logits(*row), atol=1e-4, rtol=1e-4)
    assert (got - base).abs().max() > 1e-2
    assert torch.equal(model.logits(*row), base)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
def test_mean_ablation_is_zero_ablation_and_a_constant(family: str) -> None:
    model = tiny_model(family)
    means, seen = tiny_means(model), {}
    components = ["L0H1", "L0H2", *([] if family == "mixtral" else ["L0N3"])]

    def outputs(ablation) -> dict:
        seen = {}
        places = {("attn", 0), ("mlp", 0)}
        with (
            intervene(model, ablation),
            model.intercept({p: (lambda x, y, p=p: seen.__setitem__(p, (x[0], y[0]))) for p in places}),
        ):
            model.logits(*model.row(IDS))
        return seen

    zero, mean = (outputs(component_ablation(model, components, each)) for each in (None, means))
    constant = sum(means.inputs("attn")[0, h].float() @ model.W_O[0][h].detach() for h in (1, 2))
    assert_close(mean["attn", 0][1], zero["attn", 0][1] + constant, atol=1e-5, rtol=1e-5)
    assert constant.abs().max() > 1e-2
    seen = outputs(component_ablation(model, ["L0H1"]))["attn", 0]
    plain_output = sum(seen[0][:, h] @ model.W_O[0][h].detach() for h in range(4) if h != 1)
    bias = model.bias("attn", 0)
    assert_close(seen[1], plain_output + (0 if bias is None else bias.detach()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("count", [48, 49, 80])
def test_ablating_many_neurons_takes_no_more_room_than_their_layers_weights(family: str, count: int) -> None:
    model, other = tiny_model(family), tiny_model(family)
    means, chosen = tiny_means(model), list(range(80))[-count:]
    labels = [f"L0N{i}" for i in reversed(chosen)]
    with torch.no_grad():
        other.weight("mlp", 0)[chosen] = 0
    zero, mean = component_ablation(model, labels), component_ablation(model, labels, means)
    assert zero.effects["mlp", 0].reads.shape == (48, model.shapes.components("mlp")[0])
    row, ys = model.row(IDS), {}
    for name, ablation in (("zero", zero), ("mean", mean)):
        keep = {("mlp", 0): lambda x, y, name=name: ys.__setitem__(name, y[0])}
        with intervene(model, ablation), model.intercept(keep):
            got = model.logits(*row)
        if name == "zero":
            assert_close(got, other.logits(*row), atol=1e-4, rtol=1e-4)
            assert (got - model.logits(*row)).abs().max() > 1e-2
    constant = sum(means.inputs("mlp")[0, i].float() @ model.W_out[0][i, None].detach() for i in chosen)
    assert_close(ys["mean"], ys["zero"] + constant, atol=1e-5, rtol=1e-4)


def test_an_ablations_effect_is_the_difference_of_two_runs() -> None:
    model, zeroed = tiny_model(), tiny_model()
    directions = tiny_directions(model)
    with torch.no_grad():
        zeroed.weight("attn", 0)[2] = 0
    found = ablation_effect(model, IDS, ["L0H2"], directions=directions, top=4)
    row = model.row(IDS)
    before, after = (each.logits(*row)[0].log_softmax(dim=-1) for each in (model, zeroed))
    assert_close(found.before.probabilities, next_tokens(model, IDS).probabilities)
    assert_close(found.after.probabilities, next_tokens(zeroed, IDS).probabilities, atol=1e-5, rtol=1e-4)
    want = torch.nn.functional.kl_div(after, before, log_target=True, reduction="none").sum(dim=-1)
    assert_close(found.kl, want, atol=1e-5, rtol=1e-3)
    assert found.kl[-1] > 1e-3
    shift = (after - before)[-1].exp()
    assert len(found.changes) == 4
    assert shift.isfinite().all()
    moved = (after[-1].exp() - before[-1].exp()).abs()
    assert [each.id for each in found.changes] == moved.topk(4).indices.tolist()
    assert found.changes[0].after - found.changes[0].before == pytest.approx(
        float((after[-1].exp() - before[-1].exp())[found.changes[0].id]), abs=1e-5
    )
    change = {
        site: projections(zeroed, IDS, directions, force=True)[site] - projections(model, IDS, directions)[site] for site in SITES
    }
    for site in SITES:
        assert_close(found.projections[site], change[site], atol=1e-4, rtol=1e-3)
    assert ablation_effect(model, IDS, ["L0H2"]).projections is None
    assert found.components == ("L0H2",)


def test_ablating_inside_a_steered_model_keeps_the_steering() -> None:
    model = tiny_model()
    directions = tiny_directions(model)
    alone = ablation_effect(model, IDS, ["L1N4"])
    with steered(model, directions, 1.0):
        inside = ablation_effect(model, IDS, ["L1N4"])
        assert_close(inside.before.probabilities, next_tokens(model, IDS).probabilities)
    assert (inside.before.probabilities - alone.before.probabilities).abs().max() > 1e-3


# tokens


def test_tokens_are_shown_literally() -> None:
    model = tiny_model()
    assert token_strings(model, [1, 4, 127, 2, 0]) == ("<s>", " w4", " w127", "</s>", "<pad>")
    assert token_strings(model, [500, -1]) == ("[500]", "[-1]")
    for token in (0, 1, 5, 127):
        assert token_id(model, token_strings(model, [token])[0]) == token
    assert token_id(model, "w5") == token_id(model, " w5") == 5, "this tokenizer reads no space"
    assert token_id(model, 7) == 7
    wrongs = (
        (" w5 w6", r"2 tokens \(' w5', ' w6'\)"),
        ("", "0 tokens"),
        ("zzz", "1 token .'<unk>'"),
        (128, "between 0 and 127"),
        (" W5", "Near it are the tokens 'w5', ' w5'"),
    )
    for wrong, message in wrongs:
        with pytest.raises(ModelError, match=message):
            token_id(model, wrong)


def with_tokenizer(backend: Tokenizer) -> LensModel:
    model = tiny_model()
    model.text = TextCodec(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>"))
    return model


def byte_level(text: list[str]) -> LensModel:
    """A model with a byte-level tokenizer of these pieces."""
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(text)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return with_tokenizer(backend)


def test_spaces_newlines_and_parts_of_characters_are_kept_apart() -> None:
    model = byte_level(["Ġthe", "the", "Ċ", "ĊĊ", "âĢ", "Ķ", "Ã©", "ĠâĢ", "Ġ"])
    got = token_strings(model, [0, 1, 2, 3, 4, 5, 6, 7, 8])
    assert got == (" the", "the", "\n", "\n\n", "\\xe2\\x80", "\\x94", "é", " \\xe2\\x80", " ")
    assert tuple(map(visible, got[:4])) == ("·the", "the", "↵", "↵↵")


def sentencepiece(pieces: list[str]) -> LensModel:
    """A model whose decoder drops the space at the head of a text, as Llama's does."""
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return with_tokenizer(backend)


def test_a_space_that_the_decoder_drops_is_kept() -> None:
    model = sentencepiece(["▁the", "the", "<0x0A>", "<0xE2>", "▁", "▁▁"])
    assert model.text.tokenizer.decode([0]) == "the", "the space is dropped at the head of a text"
    assert token_strings(model, [0, 1, 2, 3, 4, 5]) == (" the", "the", "\n", "<0xE2>", " ", "  ")


def test_the_token_of_a_text_is_the_one_that_shows_as_it_or_none() -> None:
    """With and without a space before it are two texts, whatever the tokenizer reads by itself."""
    tokens = ["Ġthe", "the", "an", "Ġ", "Ċ", "t", "h", "e", "a", "n", "<s>"]
    backend = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate([*tokens, "th"])},
            merges=[("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n")],
        )
    )
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    model = with_tokenizer(backend)
    for text, token in ((" the", 0), ("the", 1), ("an", 2), (" ", 3), ("\n", 4), ("<s>", 10)):
        assert token_id(model, text) == token
    with pytest.raises(ModelError, match=r"2 tokens \(' ', 'an'\)\. Near it are the tokens 'an'\."):
        token_id(model, " an")
    with pytest.raises(ModelError, match="Near it are the tokens 'the', ' the'"):
        token_id(model, "The")
    before_every_word = sentencepiece(["▁the", "the", "▁", "▁an"])
    for text, token in ((" the", 0), ("the", 1), (" an", 3)):
        assert token_id(before_every_word, text) == token


# models that others wrap


def test_a_model_that_a_metric_is_given_can_be_read_too() -> None:
    from s2e_lens.evaluation.sharing import Watched

    model = tiny_model("gemma2")
    watched, directions = Watched(model), tiny_directions(model)
    for read in (
        lambda each: projections(each, IDS, directions)["mlp"],
        lambda each: each.residuals(IDS),
        lambda each: each.attention(IDS),
        lambda each: direct_logits(each, torch.ones(48), "mlp", 0, scales=measure_scales(each, [IDS])),
        lambda each: next_tokens(each, IDS).probabilities,
    ):
        with steered(model, directions, 0.5, positions="response"):
            assert torch.equal(read(watched), read(model))


# bad input


@pytest.mark.parametrize(("ids", "message"), [([], "no token"), ([1] * 129, "129 tokens"), ([1, 999], "between 0 and 127")])
def test_texts_that_cannot_be_read_are_refused(ids: list[int], message: str) -> None:
    model = tiny_model()
    directions, edit = tiny_directions(model), tiny_edit(model)
    for read in (
        lambda: projections(model, ids, directions),
        lambda: projections(model, ids, directions, of="residual"),
        lambda: firings(model, ids, edit),
        lambda: activations(model, ids, ["L0H0"]),
        lambda: next_tokens(model, ids),
        lambda: ablation_effect(model, ids, ["L0H0"]),
        lambda: measure_scales(model, [ids]),
    ):
        with pytest.raises(ModelError, match=message):
            read()
    assert not model.intercepted


def test_results_of_other_weights_are_refused_unless_forced() -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    directions, edit, means, scales = tiny_directions(other), tiny_edit(other), tiny_means(other), measure_scales(model, [IDS])
    for read in (
        lambda **force: projections(model, IDS, directions, **force),
        lambda **force: firings(model, IDS, edit, **force),
        lambda **force: logit_lens(model, directions, **force),
        lambda **force: component_tokens(model, "L0H0", means, **force),
        lambda **force: logit_effects(model, edit, means, [4], scales=scales, **force),
        lambda **force: component_ablation(model, ["L0H0"], means, **force),
        lambda **force: ablation_effect(model, IDS, ["L0H0"], directions=directions, **force),
    ):
        with pytest.raises(MismatchError, match="force"):
            read()
        assert read(force=True) is not None
    small = tiny_model("gpt2")
    with pytest.raises(ShapeError, match="Collect them"):
        component_ablation(tiny_model("qwen3"), ["L0H0"], tiny_means(small), force=True)


def test_what_is_not_there_is_refused() -> None:
    model = tiny_model()
    means, edit, scales = tiny_means(model), tiny_edit(model), measure_scales(model, [IDS])
    for read in (
        lambda: activations(model, IDS, ["L0H9"]),
        lambda: component_tokens(model, "L7N0", means),
        lambda: component_ablation(model, ["L0N80"]),
        lambda: component_ablation(model, []),
        lambda: logit_effects(model, edit, means, [], scales=scales),
        lambda: logit_effects(model, edit, means, ["w5 w6"], scales=scales),
        lambda: direct_logits(model, torch.zeros(48), "attn", 2),
        lambda: next_tokens(model, IDS, top=0),
        lambda: activations(tiny_model("mixtral"), IDS, ["L0N0"]),
    ):
        with pytest.raises(ModelError):
            read()
    with pytest.raises(ShapeError, match="width 47"):
        direct_logits(model, torch.zeros(47), "attn", 1)


def test_random_directions_project_less_than_the_steering_vectors() -> None:
    """A sanity check of what a projection means: texts of the positive class lie further along v̂ than along any vector."""
    from tests.helpers import tiny_examples

    model = tiny_model()
    directions = tiny_directions(model)
    gaps = []
    for each in (directions, random_directions(directions, seed=1)):
        sides = {"positive": [], "negative": []}
        for example in tiny_examples():
            sides[example.label].append(
                projections(model, list(example.input_ids), each)["mlp"][1, example.start - 1 : -1].mean()
            )
        gaps.append(float(torch.stack(sides["positive"]).mean() - torch.stack(sides["negative"]).mean()))
    assert gaps[0] == pytest.approx(float(directions.mlp.norm[1]), rel=1e-3)
    assert abs(gaps[1]) < gaps[0] / 2
