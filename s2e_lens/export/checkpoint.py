"""The edited model as an ordinary Hugging Face checkpoint."""

import dataclasses
from pathlib import Path
from typing import Any

from s2e_lens.editor import Realised, edited
from s2e_lens.export.folder import new_folder
from s2e_lens.models import LensModel
from s2e_lens.models.loading import SIDECAR
from s2e_lens.results import Edit
from s2e_lens.storage import write_json


def export_checkpoint(model: LensModel, edit: Edit, out: str | Path, *, force: bool = False) -> Realised:
    """Write the edited model and its tokenizer; ``AutoModelForCausalLM.from_pretrained(out)`` loads it, no code of ours needed.

    The weights keep the dtype that the model is loaded in. A file beside them says which edit they carry. The model
    itself is as before afterwards.

    Returns:
        how much of the planned update the dtype could take up.

    Raises:
        ModelError: if the model has no Hugging Face twin.
        MismatchError, NotEditableError: as :func:`~s2e_lens.editor.edited`.
        ExportError: if ``out`` exists and is not empty.
        StorageError: if it cannot be written; nothing is left at ``out`` then.
    """
    with edited(model, edit, force=force) as realised, new_folder(out) as folder:
        twin: Any = model.twin
        twin.save_pretrained(folder)
        model.text.tokenizer.save_pretrained(folder)
        write_json(
            folder / SIDECAR,
            {"edit": edit.describe(), "provenance": dataclasses.asdict(edit.provenance), "realised": realised.fraction},
        )
    return realised
