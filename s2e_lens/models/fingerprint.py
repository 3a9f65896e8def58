"""Weight hashes: which weights a result belongs to."""

from collections.abc import Iterable

import torch
import xxhash
from torch import Tensor

_CHUNK = 1 << 24


def hash_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """xxh3-128 over names, shapes, dtypes and bytes, in name order; weights on the meta device count by shape only.

    Reads the tensors in chunks of 16 Mi elements, so that a model on a GPU is never copied whole.
    """
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(named, key=lambda item: item[0]):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|{tensor.device.type == 'meta'}\n".encode())
        if tensor.device.type == "meta":
            continue
        flat = tensor.detach().reshape(-1)
        for start in range(0, flat.numel(), _CHUNK):
            chunk = flat[start : start + _CHUNK].cpu().contiguous()
            digest.update(chunk.view(torch.uint8).numpy().data)
    return f"xxh3:{digest.hexdigest()}"
