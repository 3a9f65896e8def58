"""What can be taken away: the edit, a LoRA adapter, and Python code that makes the same again."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from s2e_lens.app.settings import chosen_layers
from s2e_lens.app.state import FILE, State
from s2e_lens.app.workspace import Ready
from s2e_lens.directions import METHODS, needs_examples
from s2e_lens.export import export_lora
from s2e_lens.models import LensModel
from s2e_lens.results import Edit
from s2e_lens.storage import save


@dataclass(frozen=True)
class Sources:
    """Where the explorer's inputs came from, as code can name them."""

    directions: str | None = None
    edit: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """With which models are loaded (device, dtype, …), where they are not the default."""


def edit_file(edit: Edit) -> bytes:
    """The edit as ``s2e_lens.save`` writes it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "edit.safetensors"
        save(edit, path)
        return path.read_bytes()


def lora_archive(model: LensModel, edit: Edit) -> bytes:
    """A zip of the PEFT adapter's folder. Call it under the model's lock.

    Raises:
        ExportError: if the edit changes nothing.
    """
    with TemporaryDirectory() as folder:
        out = Path(folder) / "adapter"
        export_lora(model, edit, out)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(out.rglob("*")):
                archive.write(path, path.relative_to(out.parent))
        return packed.getvalue()


def python_code(ready: Ready, state: State, sources: Sources) -> str:
    """Code that makes the page's edit from scratch, λ bit for bit, and asks its prompt three times."""
    imports = ["import s2e_lens as s2e"]
    options = "".join(f", {name}={value!r}" for name, value in sources.options.items())
    body = [f"model = s2e.load_model({state.model!r}{options})", *_directions(ready, state, sources, imports)]
    if state.edit == FILE:
        body.append(f"edit = s2e.load({sources.edit or 'edit.safetensors'!r})" + ("" if sources.edit else "  # your own edit"))
    elif state.rho_attn is None and state.rho_mlp is None:
        body.append("edit = None  # both sites are left out: nothing is edited")
    else:
        body += _planned(ready, state, imports)
    if state.off and body[-1].startswith("edit = s2e"):
        imports.append("from s2e_lens.editor import leave_out")
        body.append(f"edit = leave_out(edit, {list(state.off)!r})")
    nothing = body[-1].startswith("edit = None")
    ask = f"print(model.text.decode(model.generate([prompt], max_new_tokens={state.tokens})[0]))"
    talk = [
        f"prompt = model.text.prompt_ids({state.prompt or 'Hello'!r})",
        ask,
        f"with s2e.steered(model, directions, {state.strength!r}):",
        f"    {ask}",
        *([] if nothing else ["with s2e.edited(model, edit):", f"    {ask}"]),
    ]
    first, *rest = imports
    return "\n".join([first, *sorted(rest), "", *body, "", *talk, ""])


def _directions(ready: Ready, state: State, sources: Sources, imports: list[str]) -> list[str]:
    if state.behavior == FILE:
        path = sources.directions or "directions.safetensors"
        note = "" if sources.directions else "  # your own, written with s2e.save(directions, …)"
        return [f"directions = s2e.load({path!r}){note}"]
    imports.append("from s2e_lens.behaviors import load_behavior")
    method = METHODS[state.method]
    more = ", keep_examples=True" if needs_examples(method) else ""
    lines = [
        f"examples = s2e.tokenize_examples(model, load_behavior({state.behavior!r}).train)",
        f"means = s2e.collect_means(model, examples{more})",
    ]
    if state.method == "difference-of-means":
        return [*lines, "directions = s2e.find_directions(means)"]
    name = getattr(method, "__name__", "")
    imports.append(f"from s2e_lens.directions import {name}")
    return [*lines, f"directions = s2e.find_directions(means, method={name})"]


def _planned(ready: Ready, state: State, imports: list[str]) -> list[str]:
    score = ""
    if state.score != "cosine":
        imports.append(f"from s2e_lens.attribution import {state.score}")
        score = f", score={state.score}"
    layers = chosen_layers(state.layers, ready.model.shapes.n_layers)
    at = "" if layers is None else f".at({layers!r})"
    rhos = {"rho_attn": state.rho_attn, "rho_mlp": state.rho_mlp}
    given = "".join(f"{name}={rho!r}, " for name, rho in rhos.items() if rho is not None)
    relative = ", relative=True" if state.relative else ""
    return [
        f"basis = s2e.prepare_edit(model, directions{score}){at}",
        f"edit = s2e.plan_edit(basis, {given}alpha={state.alpha!r}{relative})",
    ]
