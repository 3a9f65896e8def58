"""``s2e-lens data``: public data sets as files that the other commands take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from s2e_lens.cli import options as o

ATTRIBUTES = {
    "truthful_qa": ("truthfulness", '"true_answer_preferred"', 'also = ["true_answer_share"]\n'),
    "requests": ("safety", '{metric = "refusal_rate", max_new_tokens = 32}', ""),
    "gsm8k": ("efficiency", '{metric = "reasoning_length", max_new_tokens = 512}', ""),
}
"""Name of the behaviour, its attribute, and more lines of its TOML file."""

UTILITIES = {
    "gsm8k": '{metric = "right_number", max_new_tokens = 512}',
    "commonsense_qa": '"multiple_choice"',
    "code_mmlu": '"multiple_choice"',
}


def data(
    name: Annotated[
        Literal["truthful_qa", "gsm8k", "commonsense_qa", "code_mmlu", "requests"],
        typer.Argument(
            help="Which data set; requests are harmful requests from a file of yours (text, or CSV with goal, target)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the files; those of several data sets may share it.")],
    source: Annotated[
        str | None,
        typer.Option(help="A file (jsonl, json, csv, parquet), a folder with a copy, or a hub id. Default: the hub's."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Take this many questions, drawn by the seed.", min=3)] = None,
    plain: Annotated[bool, typer.Option("--plain", help='For models without a chat template: "Question: … Answer:".')] = False,
    seed: o.Seed = 0,
) -> None:
    """Fetch or convert a public data set: three JSONL files that share no prompt, and a behaviour's TOML file.

    For what measures utility, the table is printed that is to be pasted into a behaviour's TOML file.
    """
    from s2e_lens.behaviors import public
    from s2e_lens.errors import ExamplesError, ExportError
    from s2e_lens.storage import check_file, write_text

    files = {split: out / f"{name}.{split}.jsonl" for split in public.SPLITS}
    toml = out / f"{name}.toml"
    for path in (*files.values(), toml):
        if path.exists():
            raise ExportError(f"{path} exists: choose another folder, or remove it first.")
        check_file(path)
    if name == "requests":
        if source is None:
            raise ExamplesError("requests come from a file of yours: give --source FILE, text or CSV.")
        examples = public.requests_file(source)
    elif name == "gsm8k":
        examples = public.gsm8k(**_from(source), worked=True)
    else:
        examples = {
            "truthful_qa": public.truthful_qa,
            "commonsense_qa": public.commonsense_qa,
            "code_mmlu": public.code_mmlu,
        }[name](**_from(source))
    parts = public.split_in_three(public.as_plain_text(examples) if plain else examples, limit=limit, seed=seed)
    for split, path in files.items():
        part = getattr(parts, split)
        public.write_examples(path, part)
        typer.echo(f"{path}: {len({each.key for each in part})} questions, {len(part)} examples")
    if name in ATTRIBUTES:
        write_text(toml, _behavior(name))
        typer.echo(f"Behaviour: {toml}")
    if name in UTILITIES:
        typer.echo(f"As utility, in the TOML file of a behaviour in {out}:\n\n{_utility(name)}", nl=False)


def _from(source: str | None) -> dict[str, str]:
    return {} if source is None else {"source": source}


def _behavior(name: str) -> str:
    kind, attribute, more = ATTRIBUTES[name]
    files = "".join(f'{split} = "{name}.{split}.jsonl"\n' for split in ("train", "validation", "test"))
    head = f"# Made by s2e-lens data {name}. Add [[utility]] tables: what must not suffer."
    return f'{head}\nname = "{kind}"\n{files}attribute = {attribute}\n{more}'


def _utility(name: str) -> str:
    files = "".join(f'{split} = "{name}.{split}.jsonl"\n' for split in ("validation", "test"))
    return f'[[utility]]\nname = "{name}"\nmetric = {UTILITIES[name]}\n{files}'
