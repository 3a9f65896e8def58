"""The adapter over a user's HookedTransformer (transformer-lens 3.9; 4.0 removed it)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from s2e_lens.errors import FrameError, MismatchError, ModelError, NotEditableError
from s2e_lens.models.base import Batch, LensModel, Shapes, SiteFn, evaluation_mode
from s2e_lens.models.fingerprint import hash_tensors
from s2e_lens.models.generation import uniforms
from s2e_lens.models.norms import Norm
from s2e_lens.models.text import TextCodec
from s2e_lens.models.twin import find_by_value, input_major
from s2e_lens.results import Place, Site

POST_NORM_ARCHITECTURES = {"Olmo2ForCausalLM", "Olmo3ForCausalLM"}


class HookedModel(LensModel):
    """A HookedTransformer with raw weights. Its parameters are its own: ``twin`` copies them back into ``hf_model``."""

    def __init__(self, hooked: Any, text: TextCodec, *, name: str, hf_model: nn.Module | None = None):
        self.hooked, self.text, self.name, self.source = hooked, text, name, name
        cfg = hooked.cfg
        _check_frame(hooked, name)
        if getattr(cfg, "load_in_4bit", False):
            raise NotEditableError(f"{name} is loaded in 4 bits and cannot be edited. Load it in float32 or bfloat16.")
        if getattr(cfg, "attn_only", False):
            raise ModelError(f"{name} has attention layers alone, without MLP blocks, and is not supported.")
        has_neurons = all(hasattr(block.mlp, "W_out") for block in hooked.blocks)
        self.shapes = Shapes(
            n_layers=cfg.n_layers,
            n_heads=cfg.n_heads,
            d_head=cfg.d_head,
            d_model=cfg.d_model,
            d_mlp=cfg.d_mlp if has_neurons else 0,
            n_ctx=cfg.n_ctx,
            d_vocab=cfg.d_vocab,
        )
        self._hf = hf_model
        self._active = 0
        self._names = self._match(hf_model) if hf_model is not None else {}

    def _match(self, hf_model: nn.Module) -> dict[Place, str]:
        names = find_by_value(hf_model, ((key, self._weight(*key).flatten(0, 1)) for key in self.shapes.editable_places))
        missing = [key for key in self.shapes.editable_places if key not in names]
        if missing:
            raise MismatchError(
                f"the Hugging Face model given with {self.name} does not hold the same weights at {missing[:4]}. "
                "Were they folded, centred or edited? Convert the checkpoint with fold_ln=False, "
                "center_writing_weights=False, center_unembed=False, fold_value_biases=False."
            )
        for place, module in names.items():
            want, have = getattr(hf_model.get_submodule(module), "bias", None), self.bias(*place)
            want = torch.zeros(()) if want is None else want.detach()
            have = torch.zeros(()) if have is None else have.detach()
            if not torch.equal(*torch.broadcast_tensors(have, want.to(have))):
                raise FrameError(
                    f"the {place[0]} bias of layer {place[1]} of {self.name} is not the Hugging Face model's: value biases were "
                    "folded into it. Load it with fold_value_biases=False (from_pretrained_no_processing)."
                )
        return names

    def _weight(self, site: Site, layer: int) -> Tensor:
        block = self.hooked.blocks[layer]
        return block.attn.W_O if site == "attn" else block.mlp.W_out[:, None]

    def bias(self, site: Site, layer: int) -> Float[Tensor, " d_model"] | None:
        block = self.hooked.blocks[layer]
        return block.attn.b_O if site == "attn" else getattr(block.mlp, "b_out", None)

    @property
    def twin(self) -> nn.Module:
        if self._hf is None:
            raise ModelError(
                f"{self.name} is a HookedTransformer without its Hugging Face model: there is nothing to export to. "
                "Load it as load_model(hooked_transformer, hf_model=hf_model)."
            )
        self.sync_twin()
        return self._hf

    def sync_twin(self) -> None:
        if self._hf is not None:
            with torch.no_grad():
                for key, name in self._names.items():
                    input_major(self._hf.get_submodule(name)).copy_(self._weight(*key).flatten(0, 1))

    @property
    def module_names(self) -> Mapping[Place, str]:
        return self._names

    def weight_hash(self) -> str:
        # Its own parameters: names and layouts differ from the checkpoint's, and so does the hash.
        return hash_tensors(self.hooked.state_dict().items(), config=f"HookedTransformer {self.shapes}")

    @property
    def device(self) -> torch.device:
        return self.hooked.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hooked.W_E.dtype

    @contextmanager
    def intercept(self, fns: Mapping[Place, SiteFn]) -> Iterator[None]:
        # The module's own output is y: hook_attn_out / hook_mlp_out come after Gemma's post-norm.
        with ExitStack() as stack:
            hooks = []
            for (site, layer), fn in fns.items():
                kept: list[Tensor] = []

                def keep(x: Tensor, hook: Any, *, kept: list[Tensor] = kept, site: Site = site) -> None:
                    kept[:] = [x if site == "attn" else x[..., None]]

                def call(module: Any, args: Any, y: Tensor, *, kept: list[Tensor] = kept, fn: SiteFn = fn) -> Tensor | None:
                    return fn(kept.pop() if kept else y.new_empty((*y.shape[:-1], 0, 1)), y)

                block = self.hooked.blocks[layer]
                if self.shapes.components(site)[0]:
                    hooks.append((f"blocks.{layer}.{'attn.hook_z' if site == 'attn' else 'mlp.hook_post'}", keep))
                handle = getattr(block, site).register_forward_hook(call)
                stack.callback(handle.remove)
            stack.enter_context(self.hooked.hooks(fwd_hooks=hooks))
            self._active += 1
            try:
                yield
            finally:
                self._active -= 1

    def _logits(
        self, input_ids: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_vocab"]:
        with evaluation_mode(self.hooked):
            return self.hooked(input_ids, attention_mask=attention_mask, padding_side="right")

    def run(self, input_ids: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "batch pos"]) -> None:
        with evaluation_mode(self.hooked):
            self.hooked(input_ids, attention_mask=attention_mask, padding_side="right", stop_at_layer=self.shapes.n_layers)

    @property
    def intercepted(self) -> bool:
        return self._active > 0

    def _watched(self, watchers: Mapping[str, Callable[[Tensor], None]]) -> AbstractContextManager[None]:
        def hook(watch: Callable[[Tensor], None]) -> Any:
            return lambda value, hook: watch(value)

        return self.hooked.hooks(fwd_hooks=[(name, hook(watch)) for name, watch in watchers.items()])

    def _has_hook(self, name: str) -> bool:
        return name in self.hooked.hook_dict

    def post_norm(self, site: Site, layer: int) -> Norm | None:
        block, name = self.hooked.blocks[layer], "ln1" if site == "attn" else "ln2"
        if getattr(self.hooked.cfg, "use_normalization_before_and_after", False):
            return self._norm(getattr(block, f"{name}_post"))
        # OLMo-2 and OLMo-3 keep their post-norms under the names of the pre-norms that they lack.
        return self._norm(getattr(block, name)) if self.hooked.cfg.original_architecture in POST_NORM_ARCHITECTURES else None

    @property
    def final_norm(self) -> Norm:
        return self._norm(self.hooked.ln_final)

    def _norm(self, module: Any) -> Norm:
        gain, bias = module.w.detach().float(), getattr(module, "b", None)
        return Norm(
            gain=gain.cpu(),
            bias=torch.zeros_like(gain).cpu() if bias is None else bias.detach().float().cpu(),
            centred=bias is not None,  # TransformerLens' LayerNorm has a bias, its RMSNorm has none
            eps=float(module.eps),
        )

    def _unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.hooked.unembed.W_U.T

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        rows: Int[Tensor, " prompt"],
        draws: Sequence[int],
        max_new_tokens: int,
        **options: Any,
    ) -> list[list[int]]:
        # One prompt at a time: its generate() has no attention mask, and finds padding by guessing.
        options.setdefault("do_sample", False)
        extra = options.pop("eos_token_id", None)
        ends = sorted(self.ends(extra))
        answers = []
        with evaluation_mode(self.hooked), torch.random.fork_rng():
            for row, prompt, draw in zip(rows, prompts, draws, strict=True):
                torch.manual_seed(int(uniforms(prompt, draw, 1)[0] * 2**53))
                ids = torch.tensor([list(prompt)], device=self.device)
                with self.running(Batch(row[None], None)):
                    out = self.hooked.generate(
                        ids,
                        max_new_tokens=max_new_tokens,
                        stop_at_eos=bool(ends),
                        eos_token_id=ends or None,
                        verbose=False,
                        **options,
                    )
                answers.append(self.cut_at_eos(out[0, len(prompt) :].tolist(), extra))
        return answers

    def _stream(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        rows: Int[Tensor, " prompt"],
        draws: Sequence[int],
        max_new_tokens: int,
        **options: Any,
    ) -> Iterator[list[list[int]]]:
        # Its generate() keeps no cache between calls: an answer is made whole, and then the next one.
        found: list[list[int]] = [[] for _ in prompts]
        for i, (row, prompt, draw) in enumerate(zip(rows, prompts, draws, strict=True)):
            (found[i],) = self._generate([prompt], rows=row[None], draws=[draw], max_new_tokens=max_new_tokens, **options)
            yield [list(answer) for answer in found]


def _check_frame(hooked: Any, name: str) -> None:
    """Refuse folded norms and centred writing weights, by what they leave behind in the model."""
    kind = hooked.cfg.normalization_type or ""
    if kind.endswith("Pre"):
        raise FrameError(
            f"{name} has its norms folded into the weights (normalization_type={kind!r}): W_O and W_out are not the "
            "checkpoint's. Load it with fold_ln=False (from_pretrained_no_processing)."
        )
    for block in hooked.blocks:
        attention = block.attn
        others = [getattr(attention, each, None) for each in ("b_Q", "b_K")]
        if not attention.b_V.any() and any(bias is not None and bool(bias.any()) for bias in others):
            raise FrameError(
                f"{name} has its value biases folded into b_O (b_V is zero where b_Q or b_K is not): z is not the checkpoint's. "
                "Load it with fold_value_biases=False (from_pretrained_no_processing)."
            )
    W_O = hooked.blocks[0].attn.W_O.detach()
    rows = torch.cat([block.attn.W_O.detach().flatten(0, 1) for block in hooked.blocks]).float()
    rounding = 2 * torch.finfo(W_O.dtype).eps / W_O.shape[-1] ** 0.5
    if rows.any() and rows.mean(dim=-1).abs().max() <= rounding * rows.abs().max():
        raise FrameError(
            f"{name} has centred writing weights (every row of W_O has mean 0): they are not the checkpoint's. "
            "Load it with center_writing_weights=False (from_pretrained_no_processing)."
        )
