"""The edited model as an ordinary Hugging Face checkpoint."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from s2e_lens.editor import Realised, edited
from s2e_lens.export.folder import new_folder
from s2e_lens.models import LensModel
from s2e_lens.models.loading import CONFIG_KEY
from s2e_lens.results import Edit
from s2e_lens.storage import write_json, write_text


def export_checkpoint(model: LensModel, edit: Edit, out: str | Path, *, force: bool = False) -> Realised:
    """Write the edited model and its tokenizer; ``AutoModelForCausalLM.from_pretrained(out)`` loads it, no code of ours needed.

    The weights keep the dtype that the model is loaded in. ``config.json`` says which edit they carry. The model
    itself is as before afterwards.

    Returns:
        how much of the planned update the dtype could take up.

    Raises:
        ModelError: if the model has no Hugging Face twin.
        MismatchError, NotEditableError: as :func:`~s2e_lens.editor.edited`.
        ExportError: if ``out`` exists and is not empty.
        StorageError: if it cannot be written; nothing is left at ``out`` then.
    """
    try:
        with edited(model, edit, force=force) as realised, new_folder(out) as folder:
            _save(model.twin, folder)
            model.text.tokenizer.save_pretrained(folder)
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            carried = {**edit.describe(), "realised": realised.fraction}
            write_json(folder / "config.json", {**config, CONFIG_KEY: carried})
            write_json(folder / f"{CONFIG_KEY}.json", {"edit": carried, "provenance": dataclasses.asdict(edit.provenance)})
    finally:
        model.sync_twin()  # a twin with weights of its own was given the edited ones
    return realised


def _save(twin: Any, folder: Path) -> None:
    """Save weights and config; the generation settings go out as they are, also those that transformers would refuse."""
    own = twin.generation_config
    twin.generation_config = GenerationConfig()
    try:
        twin.save_pretrained(folder)
    finally:
        twin.generation_config = own
    if own is not None:
        write_text(folder / "generation_config.json", own.to_json_string())
