"""Plain Hugging Face trees that share their parameters with a hooked one."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from s2e_lens.errors import ModelError
from s2e_lens.results import Place


def sharing_copy(model: nn.Module) -> nn.Module:
    """A second tree of modules over the same parameters and buffers: hooks on one do not touch the other."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def plain_tree(hooked: nn.Module) -> nn.Module:
    """The plain model behind a bridge's wrapped modules, over the same parameters.

    Raises:
        ModelError: if the wrapped tree does not hold every parameter of the plain one.
    """
    tensors = {name.replace("._original_component", ""): t for name, t in hooked.state_dict(keep_vars=True).items()}
    config: Any = hooked.config
    make: Any = type(hooked)
    with init_empty_weights(include_buffers=False):
        plain: Any = make(config)
    wanted = plain.state_dict().keys()
    result = plain.load_state_dict({k: t for k, t in tensors.items() if k in wanted}, assign=True, strict=False)
    plain.tie_weights()  # parameters that the checkpoint stores once
    missing = [name for name in result.missing_keys if plain.get_parameter(name).device.type == "meta"]
    if missing:
        raise ModelError(
            f"cannot rebuild the plain model behind this bridge: {missing[:3]} (of {len(missing)}) are not in it. "
            "Pass the Hugging Face model to load_model(hf_model, tokenizer=...) instead."
        )
    plain.generation_config = copy.deepcopy(getattr(hooked, "generation_config", plain.generation_config))
    return plain.eval()


def is_transposed(module: nn.Module) -> bool:
    """True for GPT-2's Conv1D, whose weight is [in, out]; nn.Linear's is [out, in]."""
    return isinstance(module, Conv1D)


def input_major(module: nn.Module) -> Tensor:
    """A projection's weight as a live [d_in, d_model] view."""
    weight: Any = module.weight
    return weight if is_transposed(module) else weight.T


def find_by_storage(plain: nn.Module, wanted: Iterable[tuple[Place, Tensor]]) -> dict[Place, str]:
    """Names of the modules whose weight is the very memory of the wanted views."""
    by_address = {
        parameter.untyped_storage().data_ptr(): name.removesuffix(".weight")
        for name, parameter in plain.named_parameters()
        if name.endswith(".weight") and parameter.device.type != "meta"
    }
    return {
        key: by_address[view.untyped_storage().data_ptr()]
        for key, view in wanted
        if view.device.type != "meta" and view.untyped_storage().data_ptr() in by_address
    }


def find_by_value(plain: nn.Module, wanted: Iterable[tuple[Place, Tensor]]) -> dict[Place, str]:
    """Names of the modules whose weight equals the wanted [d_in, d_model] matrices, each used once."""
    linear = {name: m for name, m in plain.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    found: dict[Place, str] = {}
    for key, matrix in wanted:
        for name, module in linear.items():
            weight = input_major(module)
            if weight.shape == matrix.shape and torch.equal(weight, matrix.to(weight.device, weight.dtype)):
                found[key] = name
                del linear[name]
                break
    return found
