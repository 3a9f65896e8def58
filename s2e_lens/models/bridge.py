"""The adapter over TransformerLens' TransformerBridge (3.9 and 4.x)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from s2e_lens.errors import FrameError, ModelError, NotEditableError
from s2e_lens.models.base import Batch, LensModel, Shapes, SiteFn, context_length, evaluation_mode
from s2e_lens.models.generation import stream_rows
from s2e_lens.models.norms import Norm, norm_of
from s2e_lens.models.text import TextCodec
from s2e_lens.models.twin import find_by_storage, plain_tree
from s2e_lens.results import SITES, Place, Site

INPUT_HOOKS: dict[Site, str] = {"attn": "blocks.{}.attn.hook_z", "mlp": "blocks.{}.mlp.hook_post"}
OUTPUT_HOOKS: dict[Site, str] = {"attn": "blocks.{}.attn.hook_out", "mlp": "blocks.{}.mlp.hook_out"}


FLOAT32_ROTARY = {"olmo", "olmo2", "olmo3"}
"""Families whose bridge (up to 4.3) mixes float32 queries with bfloat16 values, unless a KV cache evens them out."""


class BridgeModel(LensModel):
    """A TransformerBridge; its weights are the Hugging Face parameters themselves."""

    def __init__(self, bridge: Any, text: TextCodec, *, name: str, plain: nn.Module | None):
        if getattr(bridge, "compatibility_mode", False):
            raise FrameError(
                f"{name} is in compatibility mode: its weights are processed copies (folded norms, centred weights), and "
                "an edit of them would be lost or wrong in the checkpoint. Boot the bridge again and do not call "
                "enable_compatibility_mode()."
            )
        self.bridge, self.text, self.name, self.source = bridge, text, name, name
        self._plain = plain
        self._users_own = plain is None
        self._active = self._twin_active = 0
        cfg = bridge.cfg
        has_neurons = all(_has_neurons(block.mlp) for block in bridge.blocks)
        self.shapes = Shapes(
            n_layers=cfg.n_layers,
            n_heads=cfg.n_heads,
            d_head=cfg.d_head,
            d_model=cfg.d_model,
            d_mlp=_count_neurons(bridge.blocks[0].mlp, cfg.d_mlp) if has_neurons else 0,
            n_ctx=context_length(bridge.original_model.config.get_text_config(), cfg.n_ctx),
            d_vocab=bridge.original_model.get_input_embeddings().weight.shape[0],
        )
        self._check_hooks()

    def _check_hooks(self) -> None:
        wanted = [INPUT_HOOKS[site].format(layer) for site, layer in self.shapes.editable_places]
        wanted += [OUTPUT_HOOKS[site].format(layer) for site, layer in self.shapes.places]
        missing = [name for name in wanted if name not in self.bridge.hook_dict]
        if missing:
            raise ModelError(
                f"{self.name} has no hook points {missing[:4]}: this architecture writes to the residual stream in another "
                "way than attention and MLP blocks do, and is not supported."
            )

    def _weight(self, site: Site, layer: int) -> Tensor:
        block = self.bridge.blocks[layer]
        try:
            weight = block.attn.W_O if site == "attn" else block.mlp.W_out[:, None]
        except Exception as error:  # quantised and offloaded weights fail inside the bridge
            raise NotEditableError(
                f"the {site} weights of layer {layer} of {self.name} cannot be read or written in place ({error}). Load the "
                "plain checkpoint whole, in float32 or bfloat16, to edit it; hooks work on quantised and offloaded models."
            ) from error
        storage = weight.untyped_storage()
        if weight.device.type != "meta" and not any(
            p.device.type != "meta" and p.untyped_storage().data_ptr() == storage.data_ptr()
            for p in getattr(block, site).parameters()
        ):
            raise FrameError(
                f"the {site} weights of layer {layer} of {self.name} are a copy, not the model's own memory: what is written "
                "there is lost. Is the model quantised, processed or stacked? Load the plain checkpoint."
            )
        return weight

    def bias(self, site: Site, layer: int) -> Float[Tensor, " d_model"] | None:
        block = self.bridge.blocks[layer]
        return block.attn.b_O if site == "attn" else getattr(block.mlp, "b_out", None)

    @cached_property
    def _twin(self) -> nn.Module:
        return self._plain if self._plain is not None else plain_tree(self.bridge.original_model)

    @property
    def twin(self) -> nn.Module:
        return self._twin

    def sync_twin(self) -> None:
        pass

    @cached_property
    def _module_names(self) -> Mapping[Place, str]:
        return find_by_storage(self.twin, ((place, self._weight(*place)) for place in self.shapes.editable_places))

    @property
    def module_names(self) -> Mapping[Place, str]:
        return self._module_names

    @property
    def device(self) -> torch.device:
        found = (p.device for p in self.bridge.original_model.parameters() if p.device.type != "meta")
        return next(found, torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        return self.bridge.original_model.dtype

    def intercept(self, fns: Mapping[Place, SiteFn]) -> AbstractContextManager[None]:
        hooks: list[tuple[str, Any]] = []
        for (site, layer), fn in fns.items():
            keep, call = _hook_pair(fn, d_in=self.shapes.components(site)[1], has_input=self.shapes.components(site)[0] > 0)
            if keep is not None:
                hooks.append((INPUT_HOOKS[site].format(layer), keep))
            hooks.append((OUTPUT_HOOKS[site].format(layer), call))
        return self._hooked(hooks)

    @contextmanager
    def _hooked(self, hooks: list[tuple[str, Any]]) -> Iterator[None]:
        if self._twin_active:
            raise ModelError(
                f"the plain twin of {self.name} is intercepted: hooks on TransformerLens' modules would not meet it. "
                "Use intercept() for both."
            )
        self._active += 1
        try:
            with self.bridge.hooks(fwd_hooks=hooks):
                yield
        finally:
            self._active -= 1

    def intercept_twin(self, fns: Mapping[Place, SiteFn]) -> AbstractContextManager[None]:
        if self._runner is self.bridge.original_model or not fns.keys() <= self.module_names.keys():
            return self.intercept(fns)
        return self._intercept_twin(fns)

    @contextmanager
    def _intercept_twin(self, fns: Mapping[Place, SiteFn]) -> Iterator[None]:
        self._twin_active += 1
        try:
            with ExitStack() as stack:
                for (site, layer), fn in fns.items():
                    module = self.twin.get_submodule(self.module_names[site, layer])
                    handle = module.register_forward_hook(_plain_hook(fn, self.shapes.components(site)))
                    stack.callback(handle.remove)
                yield
        finally:
            self._twin_active -= 1

    @property
    def twin_intercepted(self) -> bool:
        return self._twin_active > 0

    @property
    def intercepted(self) -> bool:
        return self._active > 0

    @property
    def _use_cache(self) -> bool:
        return self.bridge.original_model.config.model_type in FLOAT32_ROTARY

    @property
    def _runner(self) -> Any:
        """The hooked tree inside intercept(), and wherever the plain one would not compute the same.

        A user's own bridge may hold hooks of theirs; a twin with another attention kernel rounds otherwise.
        """
        hooked: Any = self.bridge.original_model
        if self._active or self._users_own:
            return hooked
        twin: Any = self.twin
        return twin if twin.config._attn_implementation == "eager" else hooked

    def _logits(
        self, input_ids: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_vocab"]:
        with evaluation_mode(self._runner):
            return self._runner(input_ids, attention_mask=attention_mask, use_cache=self._use_cache).logits

    def run(self, input_ids: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "batch pos"]) -> None:
        with evaluation_mode(self._runner):
            self._runner.base_model(input_ids, attention_mask=attention_mask, use_cache=self._use_cache)

    def _watched(self, watchers: Mapping[str, Callable[[Tensor], None]]) -> AbstractContextManager[None]:
        return self._hooked([(name, _watcher(watch)) for name, watch in watchers.items()])

    def _has_hook(self, name: str) -> bool:
        return name in self.bridge.hook_dict

    def post_norm(self, site: Site, layer: int) -> Norm | None:
        # It is named ln1_post or ln1, by version and family; what leaves it is what is added to the residual.
        added = self.bridge.hook_dict[f"blocks.{layer}.hook_{site}_out"]
        norms = [part for name, part in self.bridge.blocks[layer].named_children() if name not in SITES]
        norm = next((part for part in norms if getattr(part, "hook_out", None) is added), None)
        return None if norm is None else norm_of(norm.original_component, self.shapes.d_model)

    @property
    def final_norm(self) -> Norm:
        return norm_of(self.bridge.ln_final.original_component, self.shapes.d_model)

    @property
    def _text_config(self) -> Any:
        return self.bridge.original_model.config.get_text_config()

    @property
    def residual_scale(self) -> float:
        return float(getattr(self._text_config, "residual_multiplier", 1.0))  # Granite

    @property
    def logit_scale(self) -> float:
        # Cohere multiplies, Granite divides.
        return float(getattr(self._text_config, "logit_scale", 1.0)) / float(getattr(self._text_config, "logits_scaling", 1.0))

    def _unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.bridge.unembed.original_component.weight

    def _stream(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        rows: Int[Tensor, " prompt"],
        draws: Sequence[int],
        max_new_tokens: int,
        **options: Any,
    ) -> Iterator[list[list[int]]]:
        ids, mask = self.pad(prompts, side="left")
        extra = options.get("eos_token_id")
        endless = "eos_token_id" in options and extra is None
        steps = stream_rows(
            lambda: self._runner,
            prompts,
            ids,
            mask,
            max_new_tokens=max_new_tokens,
            draws=draws,
            ends=[] if endless else self.ends(extra),
            watch=lambda alive: setattr(self, "batch", Batch(rows[alive.cpu()], None)),
            pad_token_id=self.pad_id,
            **options,
        )
        while True:
            with evaluation_mode(self._runner), self.running(Batch(rows, None)):  # and not while the caller has its turn
                answers = next(steps, None)
            if answers is None:
                return
            yield [list(self.cut_at_eos(answer, extra)) for answer in answers]


def _has_neurons(mlp: Any) -> bool:
    """Whether a block has a W_out; one that cannot be read (quantised, offloaded) is still there."""
    try:
        return hasattr(mlp, "W_out")
    except NotImplementedError:
        return True


def _count_neurons(mlp: Any, stated: int) -> int:
    """The rows of W_out, where they can be read: a config's d_mlp is a guess for some families."""
    try:
        return int(mlp.W_out.shape[0])
    except NotImplementedError:
        return stated


def _hook_pair(fn: SiteFn, *, d_in: int, has_input: bool) -> tuple[Any, Any]:
    """One TransformerLens hook that keeps x and one that calls fn(x, y) when y comes."""
    kept: list[Tensor] = []

    def keep(x: Tensor, hook: Any) -> None:
        kept[:] = [x if d_in > 1 or x.ndim == 4 else x[..., None]]

    def call(y: Tensor, hook: Any) -> Tensor | None:
        x = kept.pop() if has_input else y.new_empty((*y.shape[:-1], 0, 1))
        return fn(x, y)

    return (keep if has_input else None), call


def _watcher(watch: Callable[[Tensor], None]) -> Any:
    """A TransformerLens hook that shows what passes and changes nothing."""

    def call(value: Tensor, hook: Any) -> None:
        watch(value)

    return call


def _plain_hook(fn: SiteFn, components: tuple[int, int]) -> Any:
    """A hook for a projection of a plain model, whose input is x with its components side by side."""

    def call(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
        return fn(args[0].unflatten(-1, components), y)

    return call
