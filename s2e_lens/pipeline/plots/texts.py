"""Kinds of figures that run the model: what it does with a text, and which tokens directions and edits promote."""

import dataclasses
import itertools
from collections.abc import Sequence

from s2e_lens.editor import edited
from s2e_lens.errors import PlanError
from s2e_lens.pipeline.plots.inputs import Asked, Drawn, Inputs, attributions_of, matching, model_of, need
from s2e_lens.pipeline.prompts import default_prompt_ids
from s2e_lens.readout import (
    activations,
    firings,
    logit_effects,
    logit_lens,
    measure_scales,
    next_tokens,
    projections,
    token_id,
    token_strings,
)
from s2e_lens.results import SITES, Site
from s2e_lens.steering import steered
from s2e_lens.visualizers import (
    attention_info,
    draw_logit_effects,
    draw_logit_lens,
    draw_next_tokens,
    firing_info,
    firing_total_info,
    logit_effects_info,
    logit_lens_info,
    next_tokens_info,
    projection_info,
    token_values_info,
    view_attention,
    view_token_values,
)

ANSWER_TOKENS = 48
"""Length of the model's own answer, where none was given."""

FEW = 4
"""Heads, neurons or tokens that are shown where none is named."""


def lens(inputs: Inputs, asked: Asked) -> Drawn:
    """The logit lens of every steering vector, per site."""
    model = model_of(asked)
    scales = measure_scales(model, default_prompt_ids(model))
    found: Drawn = {}
    for name, directions in need(inputs.directions, "directions").items():
        values = logit_lens(model, directions, scales=scales)
        for site in SITES:
            found[f"lens_{name}_{site}"] = draw_logit_lens(logit_lens_info(values, site=site))
    return found


def effects(inputs: Inputs, asked: Asked) -> Drawn:
    """The direct logit effects of edited components on tokens: those asked for, or those that the edit promotes most."""
    model = model_of(asked)
    edits, directions = need(inputs.edits, "an edit"), need(inputs.directions, "directions (their means are x̄)")
    scales = measure_scales(model, default_prompt_ids(model), last_only=True)
    found: Drawn = {}
    for name, edit in edits.items():
        vectors = matching(name, edit, directions, "directions")
        last = model.shapes.n_layers - 1
        promoted = logit_lens(model, vectors, top=FEW).lenses.get(("mlp", last))
        default = [] if promoted is None else [each.id for each in (*promoted.promoted[:3], *promoted.suppressed[:3])]
        tokens: Sequence[int | str] = [token_id(model, each) for each in asked.tokens] or default
        values = logit_effects(model, edit, vectors.means, tokens, scales=scales)
        found[f"effects_{name}"] = draw_logit_effects(logit_effects_info(values, top=min(asked.top, 20)))
    return found


def following(inputs: Inputs, asked: Asked) -> Drawn:
    """Next-token probabilities of the unedited model, under steering (with directions) and edited (with edits)."""
    model, ids = model_of(asked), _prompt(asked)
    found = {"unedited": next_tokens(model, ids)}
    for name, directions in inputs.directions.items():
        with steered(model, directions, asked.strength):
            found[f"{name}, steering {asked.strength:g}"] = next_tokens(model, ids)
    for name, edit in inputs.edits.items():
        with edited(model, edit):
            found[f"{name}, edited"] = next_tokens(model, ids)
    return {"next_tokens": draw_next_tokens(next_tokens_info(found, top=min(asked.top, 10)))}


def along(inputs: Inputs, asked: Asked) -> Drawn:
    """A text coloured by y·v̂ of each site, a view for each layer: the last one, or those asked for."""
    model = model_of(asked)
    ids = _text(asked)
    tokens = token_strings(model, ids)
    layers = asked.layers or (model.shapes.n_layers - 1,)
    found: Drawn = {}
    for name, directions in need(inputs.directions, "directions").items():
        values = projections(model, ids, directions)
        for site, layer in itertools.product(SITES, layers):
            info = projection_info(tokens, values, site=site, layers=[layer])
            found[f"projections_{name}_{site}_L{layer}"] = view_token_values(info)
    return found


def fires(inputs: Inputs, asked: Asked) -> Drawn:
    """A text coloured by how hard an edit pushes: all of it, and each of the components that push hardest."""
    model = model_of(asked)
    ids = _text(asked)
    tokens = token_strings(model, ids)
    found: Drawn = {}
    for name, edit in need(inputs.edits, "an edit").items():
        terms = max(len(edit.attn), len(edit.mlp))
        for i in range(terms):
            one = dataclasses.replace(edit, attn=edit.attn[i : i + 1], mlp=edit.mlp[i : i + 1])
            values = firings(model, ids, one)
            called = f"{name}_term{i}" if terms > 1 else name
            found[f"firings_{called}"] = view_token_values(firing_total_info(tokens, values))
            each = firing_info(tokens, values, top=min(asked.top, FEW))
            for row, label in enumerate(each.labels):
                alone = dataclasses.replace(each, values=each.values[row : row + 1], labels=(label,), name=f"{label}: λ k·x")
                found[f"firings_{called}_{label}"] = view_token_values(alone)
    return found


def attention(inputs: Inputs, asked: Asked) -> Drawn:
    """The attention pattern of each head: those asked for, or those of largest score."""
    model = model_of(asked)
    ids = _text(asked)
    labels = _components(inputs, asked, "attn")
    where = [model.shapes.locate(label) for label in labels]
    if any(site != "attn" for site, _, _ in where):
        raise PlanError(f"attention patterns are those of heads (L5H3); got {', '.join(labels)}.")
    tokens = token_strings(model, ids)
    patterns = {layer: model.attention(ids, [layer])[0] for _, layer, _ in where}
    return {
        f"attention_{label}": view_attention(attention_info(tokens, patterns[layer][head : head + 1], labels=[label]))
        for label, (_, layer, head) in zip(labels, where, strict=True)
    }


def active(inputs: Inputs, asked: Asked) -> Drawn:
    """A text coloured by the activations of neurons and heads: those asked for, or the neurons of largest score."""
    model = model_of(asked)
    ids = _text(asked)
    labels = _components(inputs, asked, "mlp")
    values, tokens = activations(model, ids, labels), token_strings(model, ids)
    return {
        f"activations_{label}": view_token_values(
            token_values_info(tokens, each, name=f"{label}: {'post' if 'N' in label else '‖z W_O‖'}", positive="active")
        )
        for label, each in zip(labels, values, strict=True)
    }


def _components(inputs: Inputs, asked: Asked, site: Site) -> list[str]:
    if asked.components:
        return list(asked.components)
    attribution = next(iter(attributions_of(inputs, asked).values()))
    found = [component.label for component in attribution.top(FEW, site=site)]
    if not found:
        raise PlanError("this model has no neurons that could be shown one by one (mixture of experts): give --component L0H1.")
    return found


def _prompt(asked: Asked) -> list[int]:
    if not asked.prompt:
        raise PlanError("this kind of figure reads a text: give --prompt.")
    return model_of(asked).text.prompt_ids(asked.prompt)


def _text(asked: Asked) -> list[int]:
    """The prompt with its response; the model's own greedy answer where none was given."""
    prompt = _prompt(asked)
    if asked.response and asked.prompt:
        return model_of(asked).text.example_ids(asked.prompt, asked.response)[0]
    return [*prompt, *model_of(asked).generate([prompt], max_new_tokens=ANSWER_TOKENS)[0]]
