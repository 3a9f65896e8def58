"""The command ``verify``: do all forms of an edit give the same model?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2e_lens.cli import options as o

if TYPE_CHECKING:
    from s2e_lens.pipeline.certificate import Certificate, Difference

DOES_NOT_HOLD = 3
"""Exit status where the forms differ; 1 is an error, and 2 a wrong call."""


def verify(
    model: o.Model,
    edit: Annotated[Path, typer.Option(help="An edit file.")],
    prompts: Annotated[
        Path | None,
        typer.Option(help='One prompt a line, or .jsonl with a "prompt" each. Default: texts and questions of the package.'),
    ] = None,
    forms: Annotated[
        str, typer.Option(help="Forms to compare with the edited weights, with commas between.")
    ] = "hooks,checkpoint,lora",
    max_new_tokens: Annotated[int, typer.Option(help="Length of the greedy answers that are compared.", min=1)] = 32,
    out: Annotated[Path | None, typer.Option(help="The certificate as JSON.")] = None,
    device: o.Device = None,
    dtype: o.Dtype = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    force: o.Force = False,
) -> None:
    """Compare an edit as hooks, as a reloaded checkpoint and as a LoRA adapter with the edited weights.

    Exit status: 0 if they agree to rounding, 3 if they do not (or if these prompts cannot tell), 1 after an error.
    """
    from s2e_lens.cli.show import loaded
    from s2e_lens.pipeline.prompts import read_prompts
    from s2e_lens.pipeline.verify import verify as compare_forms
    from s2e_lens.results import Edit
    from s2e_lens.storage import check_file, load, write_json

    if out is not None:
        check_file(out, edit, *([prompts] if prompts else []))
    found = load(edit, Edit)
    asked = read_prompts(prompts) if prompts is not None else None
    lens = loaded(model, device=device, dtype=dtype, revision=revision, trust=trust_remote_code)
    certificate = compare_forms(
        lens,
        found,
        asked,
        forms=[form.strip() for form in forms.split(",") if form.strip()],
        max_new_tokens=max_new_tokens,
        trust_remote_code=trust_remote_code,
        force=force,
        progress=True,
    )
    print_certificate(certificate)
    if out is not None:
        write_json(out, certificate.to_json())
        typer.echo(f"Certificate: {out}")
    if not certificate.holds:
        raise typer.Exit(DOES_NOT_HOLD)


def print_certificate(certificate: "Certificate") -> None:
    """One row per form, the unedited model as the last, and the verdict."""
    from s2e_lens.cli.show import _table

    columns = ["form", "max |Δlogit|", "rms / edit's", "max KL", "mean KL", "same answers", "margin", "holds"]
    rows = []
    for row in certificate.rows:
        verdict = {True: "yes", False: "NO", None: "skipped"}[row.holds]
        relative = "–" if row.relative is None else f"{row.relative:.2e}"
        rows.append([row.form, *_numbers(row.difference, certificate.prompts, relative), verdict])
    rows.append(["(unedited)", *_numbers(certificate.unedited, certificate.prompts, "1"), "control"])
    title = (
        f"compared with the edited weights: {certificate.prompts} prompts, {certificate.positions} positions, "
        f"{certificate.max_new_tokens} new tokens, {certificate.dtype}"
    )
    _table(title, columns, rows)
    for row in certificate.rows:
        if row.reason:
            typer.echo(f"{row.form}: {row.reason}")
        elif row.difference is not None and row.difference.same_weights:
            typer.echo(f"{row.form}: its weights are the edited ones, bit for bit")
    typer.echo(certificate.verdict)


def _numbers(difference: "Difference | None", prompts: int, relative: str) -> list[str]:
    """The cells of a row; the margin is the largest at which an answer leaves the reference's."""
    if difference is None:
        return ["–"] * 6
    margin = difference.largest_margin
    return [
        f"{difference.max_logit:.2e}",
        relative,
        f"{difference.max_kl:.1e}",
        f"{difference.mean_kl:.1e}",
        f"{prompts - len(difference.forks)} of {prompts}",
        "–" if margin is None else f"{margin:.2e}",
    ]
