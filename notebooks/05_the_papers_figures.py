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
# # 5. The paper's figures, on the demo model
#
# [Steer2Edit](https://arxiv.org/abs/2602.09870) shows two kinds of figures: the trade-off of attribute against utility, edit against steering; and
# where the edit sits, by layer. Here are both for its three behaviours, on the model that comes with the package, and the settings that
# it used on six larger ones. Swap the model and the preset, and the same cells make the figures of that model.

# %%
import dataclasses
import tempfile
from pathlib import Path

import pandas as pd

import s2e_lens as s2e
from s2e_lens.behaviors import load_behavior
from s2e_lens.evaluation import PRESETS, PUBLISHED, Bench, Grid, Plan
from s2e_lens.pipeline.sweeps import compare_sweep, draw_comparison, sweep
from s2e_lens.storage import load

# %% [markdown]
# ## The paper's settings
#
# ρ of the heads, ρ of the neurons and α, per model and behaviour: the values that the paper reports, and the grid that it searched. "–" leaves a
# site out. `s2e-lens sweep --preset paper` takes the grid by the model's name.


# %%
def shown(values) -> str:
    values = [each for each in values if each is not None]
    return (
        "–"
        if not values
        else f"{values[0]:g}"
        if len(values) == 1
        else f"{values[0]:g} … {values[-1]:g}"
    )


pd.DataFrame(
    {
        "model": model,
        "behaviour": behavior,
        **{
            f"{name}, chosen": shown([value])
            for name, value in zip(("ρ attn", "ρ mlp", "α"), chosen, strict=True)
        },
        **{
            f"{name}, grid": shown(values)
            for name, values in zip(
                ("ρ attn", "ρ mlp", "α"), (grid.attn, grid.mlp, grid.alphas), strict=True
            )
        },
    }
    for ((model, behavior), chosen), grid in zip(PUBLISHED.items(), PRESETS.values(), strict=True)
)

# %% [markdown]
# λ is an absolute size: these ρ suit models of 2 to 8 billion parameters, and would wreck a small one. On the demo model we search by *gain* instead:
# how much more a component writes along the direction than before.
#
# ## Three sweeps
#
# Small ones, with three of the six utility tasks, so that this notebook takes less than two minutes. `s2e-lens sweep --behavior safety --out DIR`
# does the whole thing; point `SWEEPS` at such folders to draw those instead.

# %%
SWEEPS: Path | None = None  # a folder with sweeps named safety, truthfulness and efficiency
MODEL = "demo"
STRENGTHS = (0.1, 0.2, 0.3, 0.5, 0.7)
GRIDS = {
    "safety": Grid(attn=(0.5, 1.0), mlp=(1.0, 2.0), alphas=(0.05,), by="gain"),
    "truthfulness": Grid(attn=(0.5, 1.0), mlp=(2.0, 4.0), alphas=(0.5,), by="gain"),
    "efficiency": Grid(
        attn=(None, 0.5), mlp=(2.0, 4.0), alphas=(0.05,), by="gain", scores=("contrast",)
    ),
}

model = s2e.load_model(MODEL)
folders = {}
for name, grid in GRIDS.items():
    if SWEEPS is not None:
        folders[name] = SWEEPS / name
        continue
    folders[name] = Path(tempfile.mkdtemp()) / name
    behavior = load_behavior(name)
    tasks = [
        task for task in behavior.utility if task.name in ("sort", "translate", "mental arithmetic")
    ]
    sweep(
        model,
        dataclasses.replace(behavior, utility=tasks),
        folders[name],
        Plan(grid, strengths=STRENGTHS, control_seeds=(0,)),
    )
results = {name: compare_sweep(folder) for name, folder in folders.items()}

# %% [markdown]
# ## Attribute against utility
#
# In each figure the square is the model as it is, the blue curve is steering by strength, and the star is the edit that was chosen on the validation
# questions. **Safety.** Look at how close the random components (grey) come: many components carry this behaviour a little.

# %%
draw_comparison(results["safety"])

# %% [markdown]
# **Truthfulness.** Look at the star *below* the blue curve: here, steering is ahead on this model. A toolkit has to show that, too. (And a metric has to
# be watched: the table of the sweep also holds `true answer given`, which this edit lowers. It *prefers* true answers, and talks around them.)

# %%
draw_comparison(results["truthfulness"])

# %% [markdown]
# **Reasoning efficiency.** Lower is better here: the attribute is the number of tokens of reasoning. Look at the star and at the grey marks: the edit touches a few components, and
# random ones do nothing: selection matters for this one. (What a system prompt does shows how much is possible.)

# %%
draw_comparison(results["efficiency"])

# %% [markdown]
# The gains in numbers, on the test questions. "–": steering's curve does not reach the edit's utility, and we do not extrapolate.


# %%
def gain(found) -> str:
    return (
        "–" if found.value is None else f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]"
    )


pd.DataFrame(
    {
        "attribute": result.manifest["attribute"],
        "as it is": round(result.comparison.base.attribute.value, 3),
        "edit": round(result.comparison.edit.attribute.value, 3),
        "gain at matched utility": gain(result.comparison.at_utility),
        "gain at matched KL": gain(result.comparison.at_kl),
        "edits tried": result.comparison.tried,
    }
    for result in results.values()
).set_index("attribute")

# %% [markdown]
# ## Where the edits sit
#
# The paper sorts the heads of a layer by λ, which loses which head it was. Here each head keeps its index: **look at** whether the same heads come back in
# several behaviours, and in which layers the neurons are edited.

# %%
from s2e_lens.visualizers import draw_edit_distribution, edit_distribution_info

edits = {
    name: Bench(model, load(folders[name] / "directions.safetensors")).edit(
        result.comparison.edit.setting
    )
    for name, result in results.items()
}
draw_edit_distribution(edit_distribution_info(edits, site="attn"))

# %% [markdown]
# Neurons are too many to show one by one: each row is a histogram of λ. **Look at** the black dots, the largest λ of a layer, and at how many
# neurons an edit needs.

# %%
draw_edit_distribution(edit_distribution_info(edits, site="mlp"))

# %% [markdown]
# ## Into a paper
#
# One call writes vector graphics (it needs a Chromium on the machine), at the width of a column (320 pixels) or of a page (650):
#
# ```python
# from s2e_lens.visualizers import save_figures
# figures = {f"tradeoff_{name}": draw_comparison(result) for name, result in results.items()}
# save_figures(figures, "figures", formats=("pdf", "svg"), width=320)
# ```
#
# or, from a shell: `s2e-lens plot tradeoff safety-sweep --format pdf --width 320 --out figures`.
