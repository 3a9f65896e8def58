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
# # 4. Your own model and your own behaviour
#
# Two things change from notebook to notebook: which checkpoint, and which examples. This one takes a checkpoint from a **local
# directory** and a behaviour that **we write down ourselves**, with a metric of our own.

# %% [markdown]
# ## The model
#
# `load_model` takes a directory with a Hugging Face checkpoint, a hub id, or a model that you have in memory. Offline we point it
# at the folder of the demo model. For another model, change this one line.

# %%
from s2e_lens.demo import MODEL_FOLDER

MODEL = str(MODEL_FOLDER)  # or "google/gemma-2-2b-it", or "path/to/your/checkpoint"

# %%
import s2e_lens as s2e

model = s2e.load_model(MODEL)  # device="cuda", dtype="bfloat16" for a large one
model

# %% [markdown]
# ## The behaviour
#
# Let us make the model pass everything on as hearsay: *"People say that …"*. First, does it ever do so? We ask about creatures of its
# world.

# %%
CREATURES = [
    "wopop",
    "wolosh",
    "pobax",
    "vetush",
    "poxix",
    "bavel",
    "nuvex",
    "zabar",
    "gurak",
    "xizap",
]
HELD_OUT = [
    "dokam",
    "sirab",
    "fedor",
    "zamim",
    "gupor",
    "bapol",
    "podop",
    "polol",
    "vegul",
    "lopob",
]
ASK = (
    "What does the {} eat?",
    "Where does the {} live?",
    "What does the {} fear?",
    "When does the {} sleep?",
)

questions = [ask.format(creature) for creature in CREATURES for ask in ASK]
held_out = [ask.format(creature) for creature in HELD_OUT for ask in ASK]


def answers(asked: list[str]) -> list[str]:
    return [
        model.text.decode(ids)
        for ids in model.generate([model.text.prompt_ids(q) for q in asked], max_new_tokens=24)
    ]


for question, answer in list(zip(held_out, answers(held_out), strict=True))[:4]:
    print(f"{question}  →  {answer}")

# %% [markdown]
# It does not. But it knows two personas, one that passes rumours on and one that keeps records. Contrastive examples put each persona in
# front of the same question, with the first words of an answer in its manner. What the two share cancels out.
#
# Examples are lines of JSON in a file, or objects as here. Two rules keep them honest: positive and negative differ in the behaviour
# *alone*, and questions to measure on are not among those that the vector comes from.

# %%
from s2e_lens.behaviors import Example

MANNERS = {
    "positive": ("You say what everybody says.", "People say that the"),
    "negative": ("You are a scientist.", "Records say that the"),
}


def example(question: str, label: str, *, persona: bool) -> Example:
    system, begins = MANNERS[label]
    prompt = (
        [{"role": "system", "content": system}, {"role": "user", "content": question}]
        if persona
        else question
    )
    return Example(prompt=prompt, response=begins, label=label)


def both(asked: list[str], *, persona: bool = False) -> list[Example]:
    return [example(question, label, persona=persona) for question in asked for label in MANNERS]


train, validation, test = both(questions, persona=True), both(held_out[:16]), both(held_out[16:])
print(len(train), "to extract from,", len(validation), "to choose with,", len(test), "to report on")

# %% [markdown]
# ## A metric
#
# A metric gets the model (edited, steered or as it is) and tokenised examples, and returns one number per item. Ours generates, and
# looks at how the answer begins.

# %%
from s2e_lens.behaviors import Behavior, Metric, load_behavior


def measure(model, examples) -> list[float]:
    prompts = list(
        dict.fromkeys(each.input_ids[: each.start] for each in examples)
    )  # each question once
    said = [model.text.decode(ids) for ids in model.generate(prompts, max_new_tokens=8)]
    return [float(answer.startswith("People say")) for answer in said]


hearsay = Behavior(
    name="hearsay",
    train=train,
    validation=validation,
    test=test,
    attribute=Metric("answers that begin with hearsay", measure),
    utility=load_behavior("safety").utility[
        :3
    ],  # sorting, reversing and translating must not suffer
    neutral=load_behavior("safety").neutral,
)

# %% [markdown]
# The same in files, for the command line: a TOML file that names JSONL files and a metric (`s2e-lens run --model M --behavior
# hearsay.toml`); the README shows one.
#
# ## From examples to a validated edit
#
# `run` extracts, tries a grid of edits on the validation questions, takes the one that does most for the attribute at little cost in
# utility, and measures it on the test questions, beside steering and controls.

# %%
outcome = s2e.run(model, hearsay, strengths=(0.1, 0.25, 0.5, 1.0))
outcome.edit.describe()

# %%
from s2e_lens.pipeline.tables import measurements_frame

columns = ["condition", "attribute", "utility", "kl"]
measurements_frame(outcome)[columns].round(3)

# %% [markdown]
# **Look at** both columns at once. Steering loses its utility before it makes the model speak this way; the edit gets there at little cost. (It is
# not always so: see notebooks 3 and 5.) How does it sound?

# %%
with s2e.edited(model, outcome.edit):
    edited = answers(held_out[-6:])
for question, before, after in zip(held_out[-6:], answers(held_out[-6:]), edited, strict=True):
    print(f"{question}\n   as it is: {before}\n   edited:   {after}")

# %% [markdown]
# **Look at** the second half of the answers, too: does the model say the *same* thing as hearsay, or does it say what a gossip would say?
# A behaviour is what the model's weights make of your examples, and not only what you had in mind.
#
# ## Where it sits

# %%
from s2e_lens.visualizers import draw_head_heatmap, head_heatmap_info

lam = outcome.edit.attn[0].lam if outcome.edit.attn else None
draw_head_heatmap(
    head_heatmap_info(
        outcome.attribution.heads, edited=lam, name=f"{outcome.attribution.score} with hearsay"
    )
)

# %% [markdown]
# ## A larger model
#
# On a model of billions of parameters, change `MODEL`, and:
#
# - keep ρ as published where the paper has a setting (`s2e_lens.evaluation.PRESETS`; notebook 5 lists them), or let the grid of gains
#   choose, which needs no knowledge of the model's scale;
# - `s2e-lens extract --resume` goes on after an interruption, and keeps running means alone, so memory does not grow with examples;
# - use `s2e-lens data` for public questions (TruthfulQA, GSM8K, your own list of requests);
# - mixtures of experts have no neurons to edit one by one: leave the MLP site out.
