"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option("--model", "-m", help="A checkpoint directory, a hub id, or 'demo'.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: cuda when there is one, else cpu.")]
Dtype = Annotated[str, typer.Option(help="auto (what the checkpoint is stored in), float32, bfloat16, float16.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run model code that comes with the checkpoint.")]
NoChatTemplate = Annotated[bool, typer.Option("--no-chat-template", help="Do not put prompts through the chat template.")]
Examples = Annotated[
    Path | None, typer.Option(help="JSONL, one example a line: label, prompt, response (or label, input_ids, start).")
]
Behavior = Annotated[
    str | None,
    typer.Option(help="safety, truthfulness or efficiency (questions that come with the package), or a behaviour's TOML file."),
]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut examples that are longer than the model's context.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted extraction.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
Force = Annotated[bool, typer.Option("--force", help="Use it on other weights than those it was measured on.")]
RhoAttn = Annotated[float | None, typer.Option(help="ρ of the heads: smaller is stronger. A site without its ρ is left out.")]
RhoMlp = Annotated[float | None, typer.Option(help="ρ of the neurons.")]
Alpha = Annotated[float, typer.Option(help="0 edits every component a little; near 1, few of them.")]
MaybeAlpha = Annotated[float | None, typer.Option(help="0 edits every component a little; near 1, few. Default 0.05, or chosen.")]
Dose = Annotated[
    float | None,
    typer.Option(help="Without ρ: choose it so that the edit equals steering at this strength on average inputs. Default 1."),
]
Heads = Annotated[int | None, typer.Option(help="Without ρ: edit this many heads (give a larger --alpha).")]
Neurons = Annotated[int | None, typer.Option(help="Without ρ: edit this many neurons.")]
Relative = Annotated[bool, typer.Option("--relative", help="λ as a gain on a component's own contribution: scale-free.")]
Method = Annotated[
    str, typer.Option(help="difference-of-means, first-component, logistic-probe, or mean-centred (with --background).")
]
Background = Annotated[Path | None, typer.Option(help="Directions file whose means are the background of --method mean-centred.")]
