"""The command ``plot``: figures of files."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from s2e_lens.cli import options as o

Kind = Literal[
    "heads",
    "neurons",
    "curves",
    "bins",
    "distribution",
    "dose",
    "geometry",
    "tradeoff",
    "changes",
    "lens",
    "effects",
    "next",
    "projections",
    "firings",
    "attention",
    "activations",
]


class Format(StrEnum):
    """Of a figure's file."""

    png = "png"
    svg = "svg"
    pdf = "pdf"
    html = "html"


def plot(
    kind: Annotated[Kind, typer.Argument(help="What to draw. From lens on, a --model is needed, and for a text a --prompt.")],
    files: Annotated[
        list[Path], typer.Argument(help="Files of extract, attribute and edit; folders of run and sweep.", metavar="FILES...")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("figures"),
    format: Annotated[list[Format] | None, typer.Option(help="Repeat it for several. Default html.")] = None,
    width: Annotated[int, typer.Option(help="Pixels: 320 is a column of a paper, 650 its page.")] = 650,
    model: Annotated[str | None, typer.Option("--model", "-m", help="A checkpoint directory, a hub id, or 'demo'.")] = None,
    score: Annotated[
        Literal["cosine", "contribution", "contrast"], typer.Option(help="Which score, where none came as a file.")
    ] = "cosine",
    top: Annotated[
        int,
        typer.Option(help="How many are shown (at most 20 components of effects, 10 next tokens, 4 firings).", min=1),
    ] = 20,
    prompt: Annotated[str | None, typer.Option(help="A prompt, through the chat template where there is one.")] = None,
    response: Annotated[str | None, typer.Option(help="What follows it; without it, the model's own answer.")] = None,
    component: Annotated[
        list[str] | None, typer.Option(help="L5H3 or L5N1234 (repeat it). Default: those of largest score.")
    ] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Layers of projections (repeat it). Default: the last.")] = None,
    token: Annotated[
        list[str] | None, typer.Option(help="Tokens of effects, as they are written (repeat it). Default: the most promoted.")
    ] = None,
    strength: Annotated[float, typer.Option(help="Strength of the steering that next compares with.")] = 1.0,
    device: o.Device = None,
    dtype: o.Dtype = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    no_chat_template: o.NoChatTemplate = False,
) -> None:
    """Draw figures of files: s2e-lens plot heads s2e_report/safety --format pdf --width 320.

    png, svg and pdf need a Chromium on this machine; without one, html is written. Views of tokens have no svg.
    """
    from s2e_lens.cli.show import loaded
    from s2e_lens.pipeline.plots import Asked, plot, read_inputs
    from s2e_lens.visualizers import save_figures

    inputs = read_inputs(files)
    lens = None
    if model is not None:
        lens = loaded(
            model, device=device, dtype=dtype, revision=revision, trust=trust_remote_code, chat_template=not no_chat_template
        )
    asked = Asked(
        model=lens,
        score=score,
        top=top,
        prompt=prompt,
        response=response,
        components=tuple(component or ()),
        layers=tuple(layer or ()),
        tokens=tuple(token or ()),
        strength=strength,
    )
    figures = plot(kind, inputs, asked)
    written = save_figures(figures, out, formats=[each.value for each in format or [Format.html]], width=width)
    typer.echo("\n".join(map(str, written)))
