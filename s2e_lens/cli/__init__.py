"""The command line. Nothing heavy is imported before a command needs it."""

import sys
from typing import Annotated

import typer

from s2e_lens._version import __version__
from s2e_lens.cli import commands, plot, sweeps, verify
from s2e_lens.cli.data import data
from s2e_lens.cli.explore import explore
from s2e_lens.errors import S2EError

app = typer.Typer(
    name="s2e-lens",
    help="From contrastive examples to an interpretable weight edit. All at once: run. In steps: extract, attribute, edit, "
    "export. Against steering: sweep, compare. The same everywhere: verify. To look at: plot, explore.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(commands.run)
app.command()(commands.extract)
app.command()(commands.attribute)
app.command()(commands.edit)
app.command()(commands.export)
app.command()(sweeps.sweep)
app.command()(sweeps.compare)
app.command()(verify.verify)
app.command()(plot.plot)
app.command()(explore)
app.command()(data)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"s2e-lens {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None: ...


def main() -> None:
    """Run the command line: an error of ours is one message and exit status 1, an interruption is 130."""
    interrupted = "Interrupted. Run the command again with --resume to continue an extraction or a sweep from what is on disk."
    try:
        app()
    except S2EError as error:
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.secho(interrupted, err=True)
        sys.exit(130)
    except SystemExit as end:
        if end.code == 130:  # typer turns an interruption within a command into this
            typer.secho(interrupted, err=True)
        raise
