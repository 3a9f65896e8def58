"""Weight hashes: which weights a result belongs to."""

import json
from collections.abc import Iterable
from typing import Any

import torch
import xxhash
from torch import Tensor

_CHUNK = 1 << 24


def hash_tensors(named: Iterable[tuple[str, Tensor]], *, config: str = "", unreadable: str = "") -> str:
    """xxh3-128 over a description of the architecture and over names, shapes, dtypes and bytes, in name order.

    Reads the tensors in chunks of 16 Mi elements, so that a model on a GPU is never copied whole. Weights on the meta
    device cannot be read: they count by shape and by ``unreadable``, which should name the one model they belong to.
    """
    digest = xxhash.xxh3_128(config.encode())
    for name, tensor in sorted(named, key=lambda item: item[0]):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|{tensor.device.type == 'meta'}\n".encode())
        if tensor.device.type == "meta":
            digest.update(unreadable.encode())
            continue
        flat = tensor.detach().reshape(-1)
        for start in range(0, flat.numel(), _CHUNK):
            chunk = flat[start : start + _CHUNK].cpu().contiguous()
            digest.update(chunk.view(torch.uint8).numpy().data)
    return f"xxh3:{digest.hexdigest()}"


_NOT_ARCHITECTURE = {
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "return_dict",
    "id2label",
    "label2id",
}


def describe_config(config: Any) -> str:
    """What a Hugging Face config says of the computation (rotary base, norms, soft caps, …), as stable text."""
    table = {
        name: value
        for name, value in config.to_dict().items()
        if not name.startswith(("_", "output_")) and not name.endswith("token_id") and name not in _NOT_ARCHITECTURE
    }
    return json.dumps(table, sort_keys=True, default=str)
