"""The edit as a LoRA adapter: the same edit exactly, since it is a sum of rank-1 updates."""

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor

from s2e_lens.editor.apply import check_editable
from s2e_lens.errors import ExportError
from s2e_lens.export.folder import new_folder
from s2e_lens.models import LensModel
from s2e_lens.models.twin import is_transposed
from s2e_lens.results import SITES, Edit
from s2e_lens.storage import write_json, write_tensors


def export_lora(model: LensModel, edit: Edit, out: str | Path, *, force: bool = False) -> int:
    """Write a PEFT adapter for the unedited model: lora_A = λk [r, d_in], lora_B = u [d_model, r], float32, scale 1.

    Only touched projections have factors. A sum of m behaviours is one adapter of rank m (padded with zeros where a
    term leaves a projection alone).

    Returns:
        the rank.

    Raises:
        ExportError: if the edit touches nothing, or ``out`` exists and is not empty.
        MismatchError: if the edit was planned on other weights, unless ``force``.
        StorageError: if it cannot be written; nothing is left at ``out`` then.
    """
    check_editable(model, edit, force=force)
    touched = edit.touched()
    if not touched:
        raise ExportError(
            "the edit changes no component (every λ is 0): there is no adapter to write. Plan it with a smaller rho."
        )
    rank = max(len(edit[site]) for site in SITES)
    tensors: dict[str, Tensor] = {}
    twin = model.twin
    names = {place: model.module_names[place] for place in touched}
    for (site, layer), name in names.items():
        terms = edit[site]
        factors = torch.zeros(rank, terms[0].factor(layer).numel())
        units = torch.zeros(terms[0].u.shape[-1], rank)
        for row, term in enumerate(terms):
            factors[row], units[:, row] = term.factor(layer), term.u[layer]
        tensors[f"base_model.model.{name}.lora_A.weight"] = factors
        tensors[f"base_model.model.{name}.lora_B.weight"] = units
    transposed = {is_transposed(twin.get_submodule(name)) for name in names.values()}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.source,
        "revision": model.revision,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed == {True},
        "inference_mode": True,
        "target_modules": sorted(names.values()),
    }
    metadata = {"format": "pt", "s2e_lens": json.dumps(dataclasses.asdict(edit.provenance))}
    with new_folder(out) as folder:
        write_tensors(folder / "adapter_model.safetensors", tensors, metadata)
        write_json(folder / "adapter_config.json", config)
    return rank
