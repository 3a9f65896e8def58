"""Handing an edit on: a Hugging Face checkpoint, or a LoRA adapter."""

from s2e_lens.export.checkpoint import export_checkpoint
from s2e_lens.export.lora import export_lora

__all__ = ["export_checkpoint", "export_lora"]
