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
# # 3. Validating an edit against steering
#
# An edit that moves a behaviour is easy to make; so is one that breaks the model. The claim to test is narrower: **at equal cost, the
# edit does more than activation steering.** This notebook tests it the way a reviewer would: chosen on one set of questions, reported on
# another, with intervals, controls, and the number of settings that were tried.

# %%
import tempfile
from pathlib import Path

import pandas as pd

import s2e_lens as s2e
from s2e_lens.behaviors import load_behavior

model = s2e.load_model("demo")
behavior = load_behavior("safety")
behavior.attribute.name, [task.name for task in behavior.utility]

# %% [markdown]
# ## A sweep
#
# `sweep` computes the directions, the scores and the components' own readings once; after that, a setting is a few vector operations.
# Everything is measured on the *validation* questions. The *test* questions are asked only of the edits that no other beats there, of
# steering, and of the controls.
#
# A small grid, so that this notebook stays short; `s2e-lens sweep` tries 132 edits. Values are largest gains per site, which mean the same in
# any model; `None` leaves a site out.

# %%
from s2e_lens.evaluation import Grid, Plan
from s2e_lens.pipeline.sweeps import compare_sweep, draw_comparison, sweep

plan = Plan(
    Grid(attn=(None, 0.5, 1.0), mlp=(1.0, 2.0), alphas=(0.05,), by="gain", layers=("all",)),
    strengths=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    control_seeds=(0,),
)
folder = Path(tempfile.mkdtemp()) / "safety"
sweep(model, behavior, folder, plan)
result = compare_sweep(folder)

# %% [markdown]
# Everything is in one tidy table, and on disk as CSV and Parquet. A sweep that is interrupted continues with `resume=True`.

# %%
table = pd.read_parquet(folder / "sweep.parquet")
table[table.split == "validation"][
    ["setting", "attribute", "utility", "kl", "heads", "neurons", "dose_attn", "dose_mlp"]
].round(3)

# %% [markdown]
# ## The trade-off
#
# **Look at** the edits (orange) against the steering curve (blue) *at the same height or above the same utility*. Up is more of the
# behaviour, right is more utility: whoever is further up and to the right wins. **Look at** the grey controls, too: an edit that is no
# better than random components has found nothing.

# %%
draw_comparison(result)

# %% [markdown]
# ## In numbers
#
# The gain at matched utility is the edit's attribute minus that of steering *at the edit's own utility*, interpolated between two strengths.
# Where steering's curve does not reach that utility, there is no value, and no extrapolation. The interval is a bootstrap over questions,
# the same questions for both.

# %%
from s2e_lens.evaluation.comparison import gains_json

gains = gains_json(result.comparison)
rows = {
    "at matched utility": gains["gain_at_matched_utility"],
    "at matched KL": gains["gain_at_matched_kl"],
}
pd.DataFrame(rows).T[["value", "low", "high", "p", "settings_tried", "note"]]

# %%
pd.DataFrame(gains["controls"]).T

# %% [markdown]
# **Look at** `edit_ahead`: how much better the edit is than each control. Random components *signed towards the direction* are the hard
# control: on this small model they come close for safety, which says that here the direction matters more than the selection. Reports that
# show only random directions would not have told you.
#
# ## Which questions changed?
#
# A mean hides who paid. **Look at** how many questions moved each way, and whether one task lost more than the others.

# %%
from s2e_lens.pipeline.sweeps import sweep_changes
from s2e_lens.visualizers import draw_changes

draw_changes(sweep_changes(result))

# %% [markdown]
# ## Is it the same edit everywhere?
#
# The edit that was measured ran as hooks or in the weights. Would a server that loads the exported checkpoint or the adapter give the same
# answers? `verify` makes each form, and compares logits, KL and greedy tokens. The unedited model is its negative control.

# %%
from s2e_lens.evaluation import Bench
from s2e_lens.pipeline.verify import verify
from s2e_lens.storage import load

bench = Bench(model, load(folder / "directions.safetensors"))
edit = bench.edit(result.comparison.edit.setting)
certificate = verify(model, edit, max_new_tokens=8, forms=("hooks", "weights", "lora"))
print(certificate.verdict)
pd.DataFrame(
    {
        row.form: {
            "holds": row.holds,
            "largest logit difference": row.difference and row.difference.max_logit,
        }
        for row in certificate.rows
    }
).T

# %% [markdown]
# ## What to report
#
# The gain with its interval *and* the number of settings tried; utility of both per task; the controls; and what the edit costs in KL on neutral text.
# `s2e-lens compare` writes all of it as `comparison.json`, with the figure beside it.
