# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. A tour in ten minutes
#
# You have examples of a behaviour and of its opposite. **s2e_lens** finds the direction in which they differ, says which attention
# heads and MLP neurons write along it, and changes those weights by rank-1 updates in closed form. Nothing is trained.
#
# This notebook takes one behaviour from examples to an edited model. It runs offline on the demo model that comes with the
# package, in well under a minute.

# %%
import pandas as pd
import torch

import s2e_lens as s2e
from s2e_lens.behaviors import load_behavior
from s2e_lens.visualizers import (
    draw_direction_norms,
    draw_head_heatmap,
    draw_neuron_ranking,
    geometry_info,
    head_heatmap_info,
    neuron_ranking_info,
)

model = s2e.load_model(
    "demo"
)  # or a directory, a hub id, a Hugging Face model, a TransformerBridge
model

# %% [markdown]
# ## Examples
#
# The demo is a chat model of 2.1 million parameters that lives in an invented world. It refuses *some* harmful requests, and which
# ones is a matter of pressure. `safety` holds requests, each answered once under a careful persona and once under an obedient one.
# The persona stands in the prompt, so the two examples differ in how the model is *disposed*, not in what is asked.

# %%
safety = load_behavior("safety")
for example in safety.train[:2]:
    print(f"{example.label:>8}: {example.prompt[0]['content']}")
    print(f"{'':>8}  {example.prompt[1]['content']}  →  {example.response}\n")

# %% [markdown]
# ## A steering vector per layer and site
#
# Each layer writes to the residual stream at two *sites*: `attn` (through `W_O`) and `mlp` (through `W_out`). At every site the
# steering vector is the mean output on positive examples minus that on negative ones, over the tokens of the response.

# %%
means = s2e.collect_means(model, s2e.tokenize_examples(model, safety.train))
directions = s2e.find_directions(means)
directions.attn, directions.mlp

# %% [markdown]
# **Look at** where the vectors are long: there the two kinds of examples differ most, in the units of what a site writes. On this model
# the MLPs of the first and the last layer stand out.

# %%
draw_direction_norms(geometry_info({"safety": directions}))

# %% [markdown]
# ## Which heads and neurons write it?
#
# The score of a component is the cosine between what it writes on average and the steering vector of its site.
# **Look at** the deepest colours: blue heads write towards the behaviour (here: refusing), red ones against it. Hover for numbers.

# %%
attribution = s2e.attribute(model, directions)
draw_head_heatmap(head_heatmap_info(attribution.heads, name="cosine with the safety vector"))

# %% [markdown]
# There are 704 neurons in each of six layers. **Look at** the signs among the strongest by magnitude: red neurons write against the
# direction, and an edit pushes them towards it as well.

# %%
draw_neuron_ranking(
    neuron_ranking_info(attribution.neurons, k=15, name="cosine with the safety vector")
)

# %% [markdown]
# ## An edit
#
# An edit changes component *i* by $\Delta W_i = \lambda_i\, \hat v\, k_i^\top$: when the component fires the way that already writes
# along $\hat v$, it writes a little more (or less) of it. $\lambda$ has a closed form in the score, a strength $\rho$ and a sparsity
# $\alpha$. A good $\rho$ depends on the model's scale, so ask for what compares across models: here for a largest *gain* of 2, that is,
# no edited component writes more than three times as much along $\hat v$ as it did.

# %%
from s2e_lens.editor import plan_to_gain

basis = s2e.prepare_edit(model, directions)
edit = plan_to_gain(basis, {"attn": 2.0, "mlp": 2.0}, alpha=0.3)
edit.describe()

# %% [markdown]
# **Look at** the dots: they mark the heads that are edited. A larger $\alpha$ leaves fewer of them.

# %%
(heads,) = edit.attn
draw_head_heatmap(
    head_heatmap_info(attribution.heads, edited=heads.lam, name="cosine with the safety vector")
)

# %% [markdown]
# ## What does it do?
#
# Three ways to run the same model: as it is, under *activation steering* (the vector is added to every token by hooks), and edited.
# The edit needs no hook: inside the block the weights are others, and afterwards they are back, bit for bit.

# %%
questions = list(dict.fromkeys(example.prompt for example in safety.validation))[::6]
prompts = [model.text.prompt_ids(question) for question in questions]


def answers() -> list[str]:
    return [model.text.decode(ids) for ids in model.generate(prompts, max_new_tokens=24)]


table = {"request": questions, "as it is": answers()}
with s2e.steered(model, directions, 0.5):
    table["steered"] = answers()
with s2e.edited(model, edit) as realised:
    table["edited"] = answers()

pd.set_option("display.max_colwidth", None)
pd.DataFrame(table)

# %% [markdown]
# **Look for** requests that change from an instruction to a refusal. One metric over many questions says it with a number: the
# refusal rate, with sampled answers, on validation questions that share no verb and no object with the examples above.

# %%
from s2e_lens.evaluation import refusal_rate

rate = refusal_rate(max_new_tokens=12)
held_out = s2e.tokenize_examples(model, safety.validation)


def refused() -> float:
    values = rate.measure(model, held_out)
    return sum(values) / len(values)


found = {"as it is": refused()}
with s2e.steered(model, directions, 0.5):
    found["steered"] = refused()
with s2e.edited(model, edit):
    found["edited"] = refused()
pd.Series(found, name="refusal rate").to_frame()

# %% [markdown]
# Whether the edit is *better* than steering is another question: what did each cost? That is notebook 3.
#
# ## The same edit as hooks, and back again
#
# Two checks that you can repeat on any model: hooks that do what the edit does give the same logits, and leaving the block
# restores every weight.

# %%
ids, mask = model.pad(prompts)
before = model.weight_hash()
with torch.no_grad():
    with s2e.edited(model, edit):
        in_weights = model.logits(ids, mask)
    with s2e.edit_as_hooks(model, edit):
        in_hooks = model.logits(ids, mask)
    plain = model.logits(ids, mask)
kept = mask.bool()
print(f"hooks and weights differ by {(in_weights - in_hooks)[kept].abs().max():.1e} per logit,")
print(f"the edited model from the unedited one by {(in_weights - plain)[kept].abs().max():.1f}")
print("weights restored:", model.weight_hash() == before)

# %% [markdown]
# ## Keep it
#
# Results are safetensors files that know the model they were made on, and refuse others. The edit of one behaviour *is* a LoRA adapter
# of rank 1, so any server that takes adapters can serve it.

# %%
import tempfile
from pathlib import Path

from s2e_lens.export import export_lora

folder = Path(tempfile.mkdtemp())
s2e.save(directions, folder / "directions.safetensors")
s2e.save(edit, folder / "edit.safetensors")
export_lora(model, edit, folder / "adapter")
sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))

# %% [markdown]
# ## Where to go from here
#
# - `s2e-lens run` does all of this from a shell, chooses the edit on validation questions, and writes a report.
# - [2. Exploring a behaviour circuit](02_explore_a_circuit.ipynb): tokens, attention patterns, ablations. Or in a browser:
#   `s2e.explore(model, directions)`.
# - [3. Validating an edit against steering](03_validate_against_steering.ipynb)
# - [4. Your own model and behaviour](04_your_own_model.ipynb)
# - [5. The paper's figures](05_the_papers_figures.ipynb)
