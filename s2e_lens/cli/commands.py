"""The commands: each reads files, calls the library, writes a file and prints a short table."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from s2e_lens.cli import options as o


def run(
    model: o.Model = "demo",
    examples: o.Examples = None,
    behavior: Annotated[
        str | None,
        typer.Option(
            help="safety, truthfulness, efficiency or all three (all), which come with the package, or a behaviour's TOML file. "
            "Default without --examples, on the demo model: all."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report; an earlier report there is replaced.")] = Path("s2e_report"),
    neutral: Annotated[Path | None, typer.Option(help="Neutral text for perplexity and KL, one passage a line.")] = None,
    strength: Annotated[list[float] | None, typer.Option(help="Strengths of steering to compare with (repeat it).")] = None,
    rho_attn: o.RhoAttn = None,
    rho_mlp: o.RhoMlp = None,
    alpha: o.MaybeAlpha = None,
    dose: o.Dose = None,
    heads: o.Heads = None,
    neurons: o.Neurons = None,
    relative: o.Relative = False,
    method: o.Method = "difference-of-means",
    background: o.Background = None,
    device: o.Device = None,
    dtype: o.Dtype = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    no_chat_template: o.NoChatTemplate = False,
    truncate: o.Truncate = False,
    resume: o.Resume = False,
    seed: o.Seed = 0,
) -> None:
    """Extract, attribute, choose an edit, apply it, measure (before, after, and under steering), and write a report folder.

    ρ and α are chosen on the validation questions, where the behaviour has some and no setting is given.
    """
    from s2e_lens.cli.show import loaded, print_measurements, print_plan, print_truncated
    from s2e_lens.export.folder import check_free
    from s2e_lens.pipeline import run as run_pipeline
    from s2e_lens.pipeline.report import SUMMARY, write_report
    from s2e_lens.pipeline.run import STRENGTHS

    check_free(out, replace_if=SUMMARY)
    given = relative or any(each is not None for each in (rho_attn, rho_mlp, alpha, dose, heads, neurons))
    alpha = 0.05 if alpha is None else alpha
    planner = _planner(rho_attn, rho_mlp, alpha, dose, heads, neurons, relative) if given else None
    chosen = _method(method, background)
    behaviors = _behaviors(model, examples, behavior, neutral, seed)
    lens = loaded(
        model, device=device, dtype=dtype, revision=revision, trust=trust_remote_code, chat_template=not no_chat_template
    )
    outcomes, checkpoints = [], []
    for what in behaviors:
        checkpoint = out.with_name(f"{out.name}.{what.name}.means.partial" if len(behaviors) > 1 else f"{out.name}.means.partial")
        checkpoints.append(checkpoint)
        outcome = run_pipeline(
            lens,
            what,
            planner=planner,
            method=chosen,
            strengths=strength or STRENGTHS,
            truncate=truncate,
            seed=seed,
            checkpoint=checkpoint,
            resume=resume,
            progress=True,
        )
        outcomes.append(outcome)
        print_truncated(outcome.truncated)
        print_plan(outcome.basis, outcome.edit, outcome.realised, title=what.name)
        print_measurements(outcome)
    write_report(outcomes, out)
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)
    typer.echo(f"\nReport: {out / 'report.html'}")


def extract(
    model: o.Model,
    out: Annotated[Path, typer.Option(help="The directions file to write (safetensors).")],
    examples: o.Examples = None,
    behavior: o.Behavior = None,
    method: o.Method = "difference-of-means",
    background: o.Background = None,
    batch_tokens: Annotated[int, typer.Option(help="At most this many tokens share a batch.", min=1)] = 4096,
    checkpoint_seconds: Annotated[float, typer.Option(help="Save unfinished sums this often.", min=0)] = 60.0,
    device: o.Device = None,
    dtype: o.Dtype = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    no_chat_template: o.NoChatTemplate = False,
    truncate: o.Truncate = False,
    resume: o.Resume = False,
    seed: o.Seed = 0,
) -> None:
    """Measure means over contrastive examples and write steering vectors of every layer and site."""
    from s2e_lens.activations import collect_means
    from s2e_lens.behaviors import load_behavior, read_examples, tokenize_examples
    from s2e_lens.cli.show import loaded, print_directions, print_truncated
    from s2e_lens.directions import find_directions, needs_examples
    from s2e_lens.errors import ExamplesError
    from s2e_lens.storage import check_file, save

    check_file(out)
    chosen = _method(method, background)
    if (examples is None) == (behavior is None):
        raise ExamplesError("give --examples FILE.jsonl, or --behavior NAME to take a behaviour's training examples.")
    found = read_examples(examples) if examples is not None else load_behavior(str(behavior), seed=seed).train
    lens = loaded(
        model, device=device, dtype=dtype, revision=revision, trust=trust_remote_code, chat_template=not no_chat_template
    )
    checkpoint = out.with_name(f"{out.name}.partial")
    tokenized = tokenize_examples(lens, found, truncate=truncate)
    print_truncated(sum(example.cut > 0 for example in tokenized))
    means = collect_means(
        lens,
        tokenized,
        batch_tokens=batch_tokens,
        keep_examples=needs_examples(chosen),
        checkpoint=checkpoint,
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
        progress=True,
        seed=seed,
    )
    directions = find_directions(means, method=chosen)
    save(directions, out)
    checkpoint.unlink(missing_ok=True)
    print_directions(directions)
    typer.echo(f"Directions: {out}")


def attribute(
    model: o.Model,
    directions: Annotated[Path, typer.Option(help="A directions file from extract.")],
    score: Annotated[Literal["cosine", "contribution", "contrast"], typer.Option(help="Which score.")] = "cosine",
    top: Annotated[int, typer.Option(help="Rows of the table.", min=1)] = 20,
    site: Annotated[Literal["attn", "mlp"] | None, typer.Option(help="Only heads, or only neurons.")] = None,
    out: Annotated[Path | None, typer.Option(help="All scores as .safetensors, or as a .csv table.")] = None,
    device: o.Device = None,
    dtype: o.Dtype = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    force: o.Force = False,
) -> None:
    """Score every head and neuron, and print the ones that carry the steering vector most."""
    from s2e_lens.attribution import SCORES
    from s2e_lens.attribution import attribute as attribute_components
    from s2e_lens.cli.show import loaded, print_components, write_attribution
    from s2e_lens.errors import StorageError
    from s2e_lens.results import Directions
    from s2e_lens.storage import check_file, load

    if out is not None:
        check_file(out, directions)
        if out.suffix not in {".csv", ".safetensors"}:
            raise StorageError(f"--out {out}: write a name that ends in .csv or .safetensors.")
    found = load(directions, Directions)
    lens = loaded(model, device=device, dtype=dtype, revision=revision, trust=trust_remote_code)
    attribution = attribute_components(lens, found, score=SCORES[score], force=force)
    print_components(attribution, top, site)
    if out is not None:
        write_attribution(attribution, out)
        typer.echo(f"Scores: {out}")


def edit(
    model: o.Model,
    directions: Annotated[Path, typer.Option(help="A directions file from extract.")],
    out: Annotated[Path, typer.Option(help="The edit file to write (safetensors).")],
    rho_attn: o.RhoAttn = None,
    rho_mlp: o.RhoMlp = None,
    alpha: o.Alpha = 0.05,
    dose: o.Dose = None,
    heads: o.Heads = None,
    neurons: o.Neurons = None,
    relative: o.Relative = False,
    device: o.Device = None,
    dtype: o.Dtype = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    force: o.Force = False,
) -> None:
    """Plan an edit: λ of every head and neuron in closed form. A site without its ρ is left out."""
    from s2e_lens.cli.show import loaded, print_plan
    from s2e_lens.editor import prepare_edit
    from s2e_lens.results import Directions
    from s2e_lens.storage import check_file, load, save

    check_file(out, directions)
    planner = _planner(rho_attn, rho_mlp, alpha, dose, heads, neurons, relative)
    found = load(directions, Directions)
    lens = loaded(model, device=device, dtype=dtype, revision=revision, trust=trust_remote_code)
    basis = prepare_edit(lens, found, force=force)
    planned = planner(basis)
    save(planned, out)
    print_plan(basis, planned)
    typer.echo(f"Edit: {out}")


def export(
    model: o.Model,
    edit: Annotated[Path, typer.Option(help="An edit file.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must be new or empty.")],
    format: Annotated[Literal["hf", "lora"], typer.Option(help="hf: a whole checkpoint; lora: a PEFT adapter.")] = "hf",
    device: o.Device = None,
    dtype: o.Dtype = "auto",
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    force: o.Force = False,
) -> None:
    """Write the edited model as a Hugging Face checkpoint, or the edit as a LoRA adapter."""
    from s2e_lens.cli.show import loaded
    from s2e_lens.export import export_checkpoint, export_lora
    from s2e_lens.export.folder import check_free
    from s2e_lens.results import Edit
    from s2e_lens.storage import load

    check_free(out)
    found = load(edit, Edit)
    lens = loaded(model, device=device, dtype=dtype, revision=revision, trust=trust_remote_code)
    if format == "lora":
        rank = export_lora(lens, found, out, force=force)
        typer.echo(f"LoRA adapter of rank {rank}: {out}")
    else:
        realised = export_checkpoint(lens, found, out, force=force)
        taken = f"{realised.fraction:.2%} of the update realised in {lens.dtype} (error {realised.relative_error:.2g})"
        typer.echo(f"Checkpoint: {out} ({taken})")


def _planner(
    rho_attn: float | None,
    rho_mlp: float | None,
    alpha: float,
    dose: float | None,
    heads: int | None,
    neurons: int | None,
    relative: bool,
) -> Any:
    """The way of planning that the options ask for: by ρ, by count, or by dose."""
    from functools import partial

    from s2e_lens.editor import plan_edit, plan_to_count, plan_to_dose
    from s2e_lens.errors import PlanError

    by_rho, by_count = rho_attn is not None or rho_mlp is not None, heads is not None or neurons is not None
    if by_rho + by_count + (dose is not None) > 1:
        raise PlanError("give ρ (--rho-attn, --rho-mlp), a count (--heads, --neurons) or a --dose, and only one of these.")
    if by_rho:
        return partial(plan_edit, rho_attn=rho_attn, rho_mlp=rho_mlp, alpha=alpha, relative=relative)
    if by_count:
        return partial(plan_to_count, heads=heads, neurons=neurons, alpha=alpha, relative=relative)
    return partial(plan_to_dose, dose=1.0 if dose is None else dose, alpha=alpha, relative=relative)


def _method(name: str, background: Path | None) -> Any:
    from s2e_lens.directions import METHODS, mean_centred
    from s2e_lens.errors import DirectionError
    from s2e_lens.results import Directions
    from s2e_lens.storage import load

    if (name == "mean-centred") != (background is not None):
        raise DirectionError("--method mean-centred and --background go together: the background is what is subtracted.")
    if background is not None:
        return mean_centred(load(background, Directions).means)
    if name not in METHODS:
        raise DirectionError(f"method {name!r} is not one of {', '.join(METHODS)}, mean-centred.")
    return METHODS[name]


def _behaviors(model: str, examples: Path | None, named: str | None, neutral: Path | None, seed: int) -> list[Any]:
    """What to run: examples of a file, one behaviour, or all that come with the package."""
    import dataclasses

    from s2e_lens.behaviors import Behavior, load_behavior, read_examples, shipped_behaviors
    from s2e_lens.behaviors.behavior import read_neutral
    from s2e_lens.errors import ExamplesError

    if examples is not None and named is not None:
        raise ExamplesError("give --examples or --behavior, not both.")
    if examples is None and named is None and model != "demo":
        raise ExamplesError(
            f"what should {model} be asked? Give --examples FILE.jsonl, or --behavior: {', '.join(shipped_behaviors())}, all, or "
            "a TOML file."
        )
    if examples is not None:
        found = [Behavior.from_examples(examples.stem, read_examples(examples), seed=seed)]
    elif named in (None, "all"):
        found = [load_behavior(each) for each in shipped_behaviors()]
    else:
        found = [load_behavior(str(named), seed=seed)]
    return [dataclasses.replace(each, neutral=read_neutral(neutral)) for each in found] if neutral else found
