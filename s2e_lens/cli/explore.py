"""``s2e-lens explore``."""

from pathlib import Path
from typing import Annotated

import typer

from s2e_lens.cli import options as o


def explore(
    model: o.Model = "demo",
    behavior: Annotated[
        list[str] | None,
        typer.Option(
            help="Behaviour to show first: safety, truthfulness or efficiency, or a TOML file (repeat it to offer several)."
        ),
    ] = None,
    directions: Annotated[Path | None, typer.Option(help="A directions file from extract: nothing is extracted then.")] = None,
    edit: Annotated[Path | None, typer.Option(help="An edit file, to look at as it is.")] = None,
    sweep: Annotated[list[Path] | None, typer.Option(help="Folder of a finished sweep (repeat it for several).")] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8050,
    device: o.Device = None,
    dtype: o.Dtype = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    no_chat_template: o.NoChatTemplate = False,
) -> None:
    """Open the explorer: a page on this machine with heads, neurons, sliders of the edit, answers and the trade-off."""
    from s2e_lens import app
    from s2e_lens.app.takeaway import Sources
    from s2e_lens.cli.show import loaded
    from s2e_lens.results import Directions, Edit
    from s2e_lens.storage import load

    known = {
        "device": device,
        "dtype": None if dtype == "auto" else dtype,
        "revision": revision,
        "trust_remote_code": trust_remote_code or None,
        "chat_template": False if no_chat_template else None,
    }
    given = Sources(
        directions=None if directions is None else str(directions),
        edit=None if edit is None else str(edit),
        options={name: value for name, value in known.items() if value is not None},
    )
    vectors = None if directions is None else load(directions, Directions)
    planned = None if edit is None else load(edit, Edit)
    lens = loaded(
        model, device=device, dtype=dtype, revision=revision, trust=trust_remote_code, chat_template=not no_chat_template
    )
    explorer = app.explore(lens, vectors, behavior=behavior or [], edit=planned, sweeps=sweep or [], port=port, sources=given)
    typer.echo(f"Explorer: {explorer.url}  (Ctrl+C stops it)")
    try:
        explorer.wait()
    except KeyboardInterrupt:
        typer.echo("Stopped.")
    finally:
        explorer.stop()
