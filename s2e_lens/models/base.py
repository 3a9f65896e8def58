"""What the rest of the package asks of a model: shapes, live weights, one way to intercept, tokens, generation."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from s2e_lens.errors import ModelError, NotEditableError
from s2e_lens.models.fingerprint import describe_config, hash_tensors
from s2e_lens.models.generation import draws_of
from s2e_lens.models.norms import Norm
from s2e_lens.models.text import TextCodec
from s2e_lens.precision import exact
from s2e_lens.results import SITES, Component, Place, Provenance, Site, command_line, parse_component

SiteFn = Callable[
    [Float[Tensor, "batch pos component d_in"], Float[Tensor, "batch pos d_model"]],
    Float[Tensor, "batch pos d_model"] | None,
]
"""Called with what enters a projection (x) and its raw output (y); returns a new y, or None to leave it."""

Reduce = Callable[[Float[Tensor, "batch pos d_vocab"]], Tensor]
"""Makes something small, with one entry per sequence, of logits that are not kept."""

MAX_ROWS = 256
"""Sequences that are continued at a time; more do not make a step cheaper per row (measured on two CPU cores)."""

UNEMBED_ROWS = 16384
"""Rows of W_U that are widened to float32 at a time."""

EDITABLE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class Shapes:
    """Sizes of a model; ``d_mlp`` is 0 where blocks have no neurons of their own (mixture of experts)."""

    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    d_mlp: int
    n_ctx: int
    d_vocab: int

    def components(self, site: Site) -> tuple[int, int]:
        """(number of components, d_in) of a site."""
        return (self.n_heads, self.d_head) if site == "attn" else (self.d_mlp, 1)

    def locate(self, component: Component | str) -> tuple[Site, int, int]:
        """(site, layer, index) of a component, or of its label such as ``L5H3``.

        Raises:
            ModelError: if the label names no head or neuron, or this model has none there.
        """
        if isinstance(component, str):
            site, layer, index = parse_component(component)
        else:
            site, layer, index = component.site, component.layer, component.index
        count = self.components(site)[0]
        if not (0 <= layer < self.n_layers and 0 <= index < count):
            label = component if isinstance(component, str) else component.label
            kind = "heads" if site == "attn" else "neurons"
            there = f"{kind} 0 to {count - 1}" if count else f"no {kind} (its blocks are mixtures of experts)"
            raise ModelError(f"{label} is not in this model, which has layers 0 to {self.n_layers - 1} with {there}.")
        return site, layer, index

    @property
    def places(self) -> list[Place]:
        """Every site of every layer."""
        return [(site, layer) for site in SITES for layer in range(self.n_layers)]

    @property
    def editable_places(self) -> list[Place]:
        """Every site of every layer that has components."""
        return [(site, layer) for site, layer in self.places if self.components(site)[0]]


@dataclass(frozen=True)
class Batch:
    """What the running forward pass is about, for functions that intercept it."""

    rows: Int[Tensor, " batch"]
    """Which of the sequences that :meth:`LensModel.logits` or :meth:`LensModel.generate` were given each row is."""
    starts: Int[Tensor, " batch"] | None
    """Index of each row's first response token; None while generating."""


class LensModel(ABC):
    """A model as s2e_lens sees it. Made by :func:`s2e_lens.load_model`; the subclasses differ in what they wrap."""

    name: str
    source: str
    """What was loaded, as the user wrote it: a path, a hub id, or a name."""
    revision: str | None = None
    shapes: Shapes
    text: TextCodec
    _session: str
    batch: Batch | None = None
    """The forward pass that :meth:`logits` or :meth:`generate` is running."""
    carries_edit: str | None = None
    """What is known of an edit that these weights already carry (an exported checkpoint says so), or None."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        model = super().__new__(cls)
        model._session = uuid.uuid4().hex
        return model

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.shapes}, {self.dtype}, device={str(self.device)!r})"

    # -- weights ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def _weight(self, site: Site, layer: int) -> Tensor:
        """The live weight as [component, d_in, d_model], unchecked."""

    @abstractmethod
    def bias(self, site: Site, layer: int) -> Float[Tensor, " d_model"] | None:
        """b_O or b_out, or None where the projection has none."""

    @property
    @abstractmethod
    def twin(self) -> nn.Module:
        """A plain Hugging Face model with these very weights, for export and for runs without hooks.

        Raises:
            ModelError: if there is none (a HookedTransformer loaded without ``hf_model=``).
        """

    @abstractmethod
    def sync_twin(self) -> None:
        """Bring the twin's weights up to date with the live ones (nothing to do where it shares them)."""

    @property
    @abstractmethod
    def module_names(self) -> Mapping[Place, str]:
        """Where the twin keeps each projection, such as ``model.layers.3.self_attn.o_proj``."""

    def weight(self, site: Site, layer: int) -> Float[Tensor, "component d_in d_model"]:
        """The live weight of a site: writing into this tensor changes the model.

        Raises:
            NotEditableError: for quantised, offloaded or expert weights, which cannot be read or written this way.
        """
        n, d_in = self.shapes.components(site)
        if n == 0:
            raise NotEditableError(
                f"{self.name} has mixture-of-experts blocks: their output is not a sum over neurons, so there is no "
                "W_out to read or edit. Leave the mlp site out (no --rho-mlp); heads work as usual."
            )
        weight = self._weight(site, layer)
        if weight.device.type == "meta":
            raise NotEditableError(
                f"the {site} weights of layer {layer} of {self.name} are offloaded (on the meta device) and cannot be "
                "edited in place. Load the model whole (no device_map with cpu or disk), or export a LoRA adapter."
            )
        if weight.dtype not in EDITABLE_DTYPES:
            raise NotEditableError(
                f"the {site} weights of layer {layer} of {self.name} are {weight.dtype}: quantised weights cannot be "
                "edited in place. Load the checkpoint in float32 or bfloat16; hooks work on the quantised model."
            )
        want = (n, d_in, self.shapes.d_model)
        if tuple(weight.shape) != want:
            raise NotEditableError(
                f"the {site} weights of layer {layer} of {self.name} have shape {tuple(weight.shape)}, expected {want}. "
                "Is the model quantised or wrapped (PEFT)? Merge the adapter, or load the plain checkpoint."
            )
        return weight

    @property
    def W_O(self) -> Sequence[Float[Tensor, "head d_head d_model"]]:
        """Live output matrices of the heads, one tensor per layer."""
        return [self.weight("attn", layer) for layer in range(self.shapes.n_layers)]

    @property
    def W_out(self) -> Sequence[Float[Tensor, "neuron d_model"]]:
        """Live output vectors of the neurons, one tensor per layer."""
        return [self.weight("mlp", layer)[:, 0] for layer in range(self.shapes.n_layers)]

    def weight_hash(self) -> str:
        """A hash of the architecture and of every weight (names, shapes, dtypes, contents) as it is now.

        Offloaded weights cannot be read; a model that has some agrees with nothing but itself.
        """
        twin: Any = self.twin
        return hash_tensors(twin.state_dict().items(), config=describe_config(twin.config), unreadable=self._session)

    # -- running ---------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where inputs go."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""

    @abstractmethod
    def intercept(self, fns: Mapping[Place, SiteFn]) -> AbstractContextManager[None]:
        """Call ``fns[site, layer](x, y)`` at each forward pass inside the ``with`` block; y may be replaced.

        y is the raw output of the projection, before any norm that follows it, and x is what enters it: z
        [batch, pos, head, d_head] or post [batch, pos, neuron, 1]. Works at prefill and at every decoded token. Blocks
        nest, in the order they were entered; every hook is gone afterwards, also after an exception.
        """

    def intercept_twin(self, fns: Mapping[Place, SiteFn]) -> AbstractContextManager[None]:
        """As :meth:`intercept`, but on the plain twin where there is one: faster, with nothing else intercepted meanwhile."""
        return self.intercept(fns)

    @property
    def twin_intercepted(self) -> bool:
        """Whether the plain twin is intercepted now."""
        return False

    @property
    def intercepted(self) -> bool:
        """Whether something is intercepted now that the twin does not see."""
        return False

    @abstractmethod
    def _logits(
        self, input_ids: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_vocab"]: ...

    def logits(
        self,
        input_ids: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"],
        *,
        starts: Sequence[int] | None = None,
        reduce: Reduce | None = None,
    ) -> Tensor:
        """Logits [batch, pos, d_vocab] at every position (right padding), or what ``reduce`` makes of them.

        Args:
            input_ids: token ids.
            attention_mask: 0 where they are padded.
            starts: where each row's response starts, for interventions that tell prompt from response; without them, all
                that follows the first token is response.
            reduce: makes something small, with one entry per row, of the logits; they need not be kept then.
        """
        begin = torch.ones(len(input_ids), dtype=torch.long) if starts is None else torch.tensor(list(starts))
        with self.running(Batch(torch.arange(len(input_ids)), begin)):
            found = self._logits(input_ids, attention_mask)
        return found if reduce is None else reduce(found)

    @contextmanager
    def running(self, batch: Batch) -> Iterator[None]:
        """State what the forward passes inside are about."""
        before, self.batch = self.batch, batch
        try:
            yield
        finally:
            self.batch = before

    @abstractmethod
    def run(self, input_ids: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "batch pos"]) -> None:
        """Run the blocks for what is intercepted; the logits are not computed."""

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        rows: Int[Tensor, " prompt"],
        draws: Sequence[int],
        max_new_tokens: int,
        **options: Any,
    ) -> list[list[int]]:
        """Continue prompts in one batch; ``rows`` says which of the call's prompts they are."""
        found: list[list[int]] = [[] for _ in prompts]
        for answers in self._stream(prompts, rows=rows, draws=draws, max_new_tokens=max_new_tokens, **options):
            found = answers
        return found

    @abstractmethod
    def _stream(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        rows: Int[Tensor, " prompt"],
        draws: Sequence[int],
        max_new_tokens: int,
        **options: Any,
    ) -> Iterator[list[list[int]]]:
        """As :meth:`_generate`, a few tokens at a time."""

    def generate(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, draws: Sequence[int] | None = None, **options: Any
    ) -> list[list[int]]:
        """Continue each prompt; the new token ids of each, cut at the first end-of-sequence token.

        Prompts of like length share a batch, of as many rows as the memory holds. Greedy unless ``do_sample=True`` is among
        the options, which go to the model's own ``generate``; sampling takes the checkpoint's own settings (temperature, top-p
        …) where none is given. A sampled answer depends on its prompt, on its draw and on the seed
        (:func:`s2e_lens.models.seeded`; 0 outside), and not on the other prompts: ``draws`` numbers the samples of a prompt; by
        default a prompt that stands three times gets draws 0, 1 and 2.

        Raises:
            ModelError: for an empty prompt, or one that leaves no room for the answer in the context.
        """
        if not prompts:
            return []
        self.check_room(prompts, max_new_tokens)
        draws = draws_of(prompts) if draws is None else draws
        found: list[list[int]] = [[] for _ in prompts]
        waiting = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))  # what does not fit fails at once
        limit = self.rows_at_once(len(prompts[waiting[0]]) + max_new_tokens)
        while waiting:
            batch = waiting[:limit]
            try:
                answers = self._generate(
                    [prompts[i] for i in batch],
                    rows=torch.tensor(batch),
                    draws=[draws[i] for i in batch],
                    max_new_tokens=max_new_tokens,
                    **options,
                )
            except torch.OutOfMemoryError:
                if limit == 1:
                    raise
                limit = max(1, min(limit, len(batch)) // 2)
                continue
            for i, answer in zip(batch, answers, strict=True):
                found[i] = answer
            waiting = waiting[limit:]
        return found

    def stream(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, draws: Sequence[int] | None = None, **options: Any
    ) -> Iterator[list[list[int]]]:
        """:meth:`generate` in one batch, a few tokens at a time: gives the answers so far, until all have ended.

        The model is free in between: what is intercepted when the iterator is asked for more holds for these tokens, and other
        work may be done meanwhile. The last answers are those of :meth:`generate`.

        Raises:
            ModelError: for an empty prompt, or one that leaves no room for the answer in the context.
        """
        self.check_room(prompts, max_new_tokens)
        draws = draws_of(prompts) if draws is None else draws
        rows = torch.arange(len(prompts))
        return self._stream(prompts, rows=rows, draws=draws, max_new_tokens=max_new_tokens, **options)

    def rows_at_once(self, width: int) -> int:
        """How many sequences of a width generation takes at a time: at most ``MAX_ROWS``, fewer where memory is short."""
        shapes, size = self.shapes, self.dtype.itemsize
        kept = 2 * shapes.n_layers * shapes.n_heads * shapes.d_head
        passing = 4 * shapes.d_mlp + 8 * shapes.d_model + 2 * shapes.n_heads * width
        if self.device.type == "cuda":
            cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            free = (torch.cuda.mem_get_info(self.device)[0] + cached) // 2
        else:
            free = psutil.virtual_memory().available // 4
        return max(1, min(MAX_ROWS, free // (width * size * (kept + passing))))

    # -- reading ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def _watched(self, watchers: Mapping[str, Callable[[Tensor], None]]) -> AbstractContextManager[None]:
        """Call each function with what passes the hook point of that name, inside the ``with`` block."""

    @abstractmethod
    def _has_hook(self, name: str) -> bool: ...

    def _read(self, names: Sequence[str], ids: Sequence[int], start: int | None) -> list[Tensor]:
        """What passes hook points while the blocks read one text, in float32 on the CPU."""
        missing = [name for name in names if not self._has_hook(name)]
        if missing:
            raise ModelError(f"{self.name} has no hook points {missing[:3]}: its attention or residual cannot be read.")
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[[Tensor], None]:
            return lambda value: found.__setitem__(name, value[0].detach().float().cpu())

        row = self.row(ids)
        with self._watched({name: keep(name) for name in names}), self.reading(ids, start):
            self.run(*row)
        return [found[name] for name in names]

    def attention(
        self, ids: Sequence[int], layers: Sequence[int] | None = None, *, start: int | None = None
    ) -> Float[Tensor, "layer head query key"]:
        """Attention patterns of all heads in some layers (all, in order): how much each query takes of each key.

        Rows sum to 1 (less where a model has attention sinks outside the text), and nothing is taken of later keys.

        Args:
            ids: one text.
            layers: which layers, in which order.
            start: where a response starts in it, for interventions that tell prompt from response; all is prompt without it.

        Raises:
            ModelError: for a text that is empty, too long or not of this vocabulary, or a layer that is not there.
        """
        chosen = range(self.shapes.n_layers) if layers is None else layers
        if not chosen or not set(chosen) <= set(range(self.shapes.n_layers)):
            raise ModelError(f"attention is read in layers 0 to {self.shapes.n_layers - 1}; got {list(chosen)}.")
        return torch.stack(self._read([f"blocks.{layer}.attn.hook_pattern" for layer in chosen], ids, start))

    def residuals(self, ids: Sequence[int], *, start: int | None = None) -> Float[Tensor, "layer pos d_model"]:
        """The residual stream after each block. Arguments and errors as in :meth:`attention`."""
        return torch.stack(self._read([f"blocks.{i}.hook_resid_post" for i in range(self.shapes.n_layers)], ids, start))

    @abstractmethod
    def post_norm(self, site: Site, layer: int) -> Norm | None:
        """The norm between a site's raw output and the residual (Gemma-2, Gemma-3, OLMo-2); None in most models."""

    @property
    @abstractmethod
    def final_norm(self) -> Norm:
        """The norm between the last residual and the unembedding."""

    @property
    def residual_scale(self) -> float:
        """What a block multiplies its outputs by before it adds them to the residual; 1 in most models."""
        return 1.0

    @property
    def logit_scale(self) -> float:
        """What the model multiplies its logits by; 1 in most models."""
        return 1.0

    @abstractmethod
    def _unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """W_U transposed, live."""

    def unembed(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """x W_U times the logit scale, in float32 on the CPU: the linear part of the head (no bias, no soft cap).

        Raises:
            ModelError: if the unembedding is quantised or offloaded.
        """
        W_U = self._unembedding().detach()
        if W_U.device.type == "meta" or W_U.dtype not in EDITABLE_DTYPES:
            raise ModelError(f"the unembedding of {self.name} is quantised or offloaded: load the model whole, unquantised.")
        x = x.to(W_U.device).float()
        with exact(W_U.device):
            parts = [x @ rows.float().T for rows in W_U.split(UNEMBED_ROWS)]
        return (torch.cat(parts, dim=-1) * self.logit_scale).cpu()

    def row(self, ids: Sequence[int]) -> tuple[Int[Tensor, "1 pos"], Int[Tensor, "1 pos"]]:
        """One text as a batch of one row, with its mask.

        Raises:
            ModelError: if it is empty, longer than the context, or holds an id that is not in the vocabulary.
        """
        if not len(ids):
            raise ModelError("the text has no token: there is nothing to read.")
        if len(ids) > self.shapes.n_ctx:
            raise ModelError(f"a text of {len(ids)} tokens does not fit the context of {self.shapes.n_ctx}. Shorten it.")
        if not all(0 <= token < self.shapes.d_vocab for token in ids):
            raise ModelError(
                f"token ids lie between 0 and {self.shapes.d_vocab - 1}; this text's between {min(ids)} and {max(ids)}."
            )
        return self.pad([ids])

    def reading(self, ids: Sequence[int], start: int | None = None) -> AbstractContextManager[None]:
        """State that the forward pass inside reads one text, whose response starts at ``start`` (at its end, without it)."""
        return self.running(Batch(torch.zeros(1, dtype=torch.long), torch.tensor([len(ids) if start is None else start])))

    # -- helpers ---------------------------------------------------------------------------------------------------

    @property
    def pad_id(self) -> int:
        """The id that fills masked positions and finished rows: one that has an embedding, which an added pad token may not."""
        return self.text.pad_id if self.text.pad_id < self.shapes.d_vocab else 0

    def pad(
        self, sequences: Sequence[Sequence[int]], *, side: str = "right"
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        """Token ids and attention mask of several sequences, on the model's device."""
        width = max(map(len, sequences))
        ids = torch.full((len(sequences), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            where = slice(0, len(sequence)) if side == "right" else slice(width - len(sequence), width)
            ids[row, where] = torch.tensor(sequence, dtype=torch.long)
            mask[row, where] = 1
        return ids.to(self.device), mask.to(self.device)

    def provenance(self, **known: Any) -> Provenance:
        """Provenance of a result that is made on this model now."""
        known.setdefault("weight_hash", self.weight_hash())
        return Provenance(
            model=self.name,
            dtype=str(self.dtype).removeprefix("torch."),
            revision=self.revision,
            command=command_line(),
            **known,
        )

    def check_room(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        """Refuse prompts that leave no room for an answer in the context.

        Raises:
            ModelError: naming the longest; an empty prompt has nothing to continue either.
        """
        longest = max(map(len, prompts))
        if not min(map(len, prompts)):
            raise ModelError("a prompt has no token: there is nothing to continue.")
        if longest + max_new_tokens > self.shapes.n_ctx:
            raise ModelError(
                f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit the context of {self.shapes.n_ctx}. "
                "Shorten the prompt, or ask for fewer tokens."
            )

    def ends(self, extra: int | Sequence[int] | None = None) -> set[int]:
        """Tokens that end an answer: the model's own, and the ``extra`` ones."""
        return {*self.text.eos_ids, *([] if extra is None else [extra] if isinstance(extra, int) else extra)}

    def cut_at_eos(self, tokens: list[int], extra: int | Sequence[int] | None = None) -> list[int]:
        """Tokens before the first end-of-sequence token, the model's or one of the ``extra`` ones."""
        ends = self.ends(extra)
        return next((tokens[:i] for i, token in enumerate(tokens) if token in ends), tokens)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """No gradients and no dropout inside; every module's training flag is put back afterwards."""
    training = [each for each in module.modules() if each.training]
    for each in training:
        each.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for each in training:
            each.training = True


def context_length(config: Any, stated: int | None = None) -> int:
    """The number of positions a model takes, from its Hugging Face config or else as TransformerLens states it.

    Raises:
        ModelError: if the config names none.
    """
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    if stated:
        return stated
    raise ModelError(f"{type(config).__name__} names no context length (max_position_embeddings, n_positions).")
