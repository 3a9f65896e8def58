"""Running one job under many conditions of a model: all in shared forward passes, or one after the other.

A job is any function of a model, such as a metric. Together, each condition's job runs in a thread of its own, and a stand-in
for the model collects what they ask of it: when every job waits for an answer, all that was asked is run as one batch whose
rows carry the conditions. Only one thread runs at a time, in a fixed order, so that nothing depends on chance.
"""

import contextvars
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from s2e_lens.effects import Intervention, Rows, intervene
from s2e_lens.errors import ModelError
from s2e_lens.evaluation.answers import fault
from s2e_lens.models import Batch, LensModel, Norm, Reduce, SiteFn, seeded
from s2e_lens.models.generation import current_seed, draws_of
from s2e_lens.results import Place, Site

T = TypeVar("T")

LOGITS_AT_ONCE = 1 << 26
"""Logits of one shared forward pass (256 MB in float32)."""


class NeedsWeights(ModelError):
    """A job looked at weights or set hooks of its own, which rows of a batch cannot have: run it one condition at a time."""


@dataclass(frozen=True, eq=False)
class Condition:
    """One way of running a model: as hooks, and perhaps as edited weights."""

    intervention: Intervention = field(default_factory=Intervention)
    applied: Callable[[], AbstractContextManager[Any]] | None = None
    """The same in the weights, where there is such a form."""

    def entered(self, model: LensModel, *, on_twin: bool = True) -> AbstractContextManager[Any]:
        """The model under this condition alone.

        The weights are edited only in float32 and wider: narrower ones round the edit, and settings would not compare with
        those that are measured as hooks.
        """
        if self.applied is not None and model.dtype in (torch.float32, torch.float64):
            return self.applied()
        return intervene(model, self.intervention, on_twin=on_twin) if self.intervention.effects else nullcontext()


class Watched(LensModel):
    """A model that counts the answers it gives, and those that are degenerate."""

    def __init__(self, model: LensModel):
        self._model = model
        self.text, self.name, self.source, self.shapes = model.text, model.name, model.source, model.shapes
        self.revision, self.carries_edit = model.revision, model.carries_edit
        self.counts: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)  # what only one kind of model has

    def _weight(self, site: Site, layer: int) -> Tensor:
        return self._model._weight(site, layer)

    def bias(self, site: Site, layer: int) -> Tensor | None:
        """See :class:`LensModel`."""
        return self._model.bias(site, layer)

    @property
    def twin(self) -> nn.Module:
        """See :class:`LensModel`."""
        return self._model.twin

    def sync_twin(self) -> None:
        """See :class:`LensModel`."""
        self._model.sync_twin()

    @property
    def module_names(self) -> Mapping[Place, str]:
        """See :class:`LensModel`."""
        return self._model.module_names

    def weight_hash(self) -> str:
        """See :class:`LensModel`."""
        return self._model.weight_hash()

    @property
    def device(self) -> torch.device:
        """See :class:`LensModel`."""
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        """See :class:`LensModel`."""
        return self._model.dtype

    @property
    def intercepted(self) -> bool:
        """See :class:`LensModel`."""
        return self._model.intercepted

    def intercept(self, fns: Mapping[Place, SiteFn]) -> AbstractContextManager[None]:
        """See :class:`LensModel`."""
        if self._model.twin_intercepted:
            raise NeedsWeights(f"hooks on {self.name} were asked for while a condition is hooks on its plain twin.")
        return self._model.intercept(fns)

    def intercept_twin(self, fns: Mapping[Place, SiteFn]) -> AbstractContextManager[None]:
        """See :class:`LensModel`."""
        return self._model.intercept_twin(fns)

    def _logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self._model._logits(input_ids, attention_mask)

    def logits(
        self, input_ids: Tensor, attention_mask: Tensor, *, starts: Sequence[int] | None = None, reduce: Reduce | None = None
    ) -> Tensor:
        """See :class:`LensModel`."""
        return self._model.logits(input_ids, attention_mask, starts=starts, reduce=reduce)

    def run(self, input_ids: Tensor, attention_mask: Tensor) -> None:
        """See :class:`LensModel`."""
        self._model.run(input_ids, attention_mask)

    @contextmanager
    def running(self, batch: Batch) -> Iterator[None]:
        """See :class:`LensModel`."""
        with self._model.running(batch):
            yield

    def _watched(self, watchers: Mapping[str, Callable[[Tensor], None]]) -> AbstractContextManager[None]:
        return self._model._watched(watchers)

    def _has_hook(self, name: str) -> bool:
        return self._model._has_hook(name)

    def post_norm(self, site: Site, layer: int) -> Norm | None:
        """See :class:`LensModel`."""
        return self._model.post_norm(site, layer)

    @property
    def final_norm(self) -> Norm:
        """See :class:`LensModel`."""
        return self._model.final_norm

    @property
    def residual_scale(self) -> float:
        """See :class:`LensModel`."""
        return self._model.residual_scale

    @property
    def logit_scale(self) -> float:
        """See :class:`LensModel`."""
        return self._model.logit_scale

    def _unembedding(self) -> Tensor:
        return self._model._unembedding()

    def _generate(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        return self._model._generate(prompts, **options)

    def _stream(self, prompts: Sequence[Sequence[int]], **options: Any) -> Iterator[list[list[int]]]:
        return self._model._stream(prompts, **options)

    def generate(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, draws: Sequence[int] | None = None, **options: Any
    ) -> list[list[int]]:
        """See :class:`LensModel`."""
        answers = self._continue(prompts, max_new_tokens=max_new_tokens, draws=draws, **options)
        self.counts.update(fault(answer, max_new_tokens) for answer in answers)
        return answers

    def _continue(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        return self._model.generate(prompts, **options)


def one_by_one(
    model: LensModel, conditions: Sequence[Condition], job: Callable[[Watched, int], T], *, on_twin: bool = True
) -> list[T]:
    """``job(model, index)`` under each condition in turn; see :func:`~s2e_lens.effects.intervene` for ``on_twin``.

    Raises:
        NeedsWeights: if a job sets hooks of its own while conditions are hooks on the twin.
    """
    found = []
    for index, condition in enumerate(conditions):
        with condition.entered(model, on_twin=on_twin):
            found.append(job(Watched(model), index))
    return found


def together(model: LensModel, conditions: Sequence[Condition], job: Callable[[Watched, int], T]) -> list[T]:
    """``job(model, index)`` under all conditions at once: the same answers as :func:`one_by_one`, in shared forward passes.

    Raises:
        NeedsWeights: if a job asks for weights or hooks; what it had asked before is lost.
    """
    rows = Rows(model, [each.intervention for each in conditions])
    turns = [_Turn(index, lambda asker, i: job(_Asking(model, asker), i)) for index in range(len(conditions))]
    try:
        with rows.applied(on_twin=True):
            for turn in turns:
                turn.resume(None)
            while waiting := [turn for turn in turns if turn.request is not None]:
                for group in _alike(waiting):
                    _serve(model, rows, group)
                for turn in waiting:
                    turn.resume(turn.answer)
        return [turn.result for turn in turns]
    finally:
        for turn in turns:
            turn.stop()


@dataclass(frozen=True, eq=False)
class _Generate:
    prompts: Sequence[Sequence[int]]
    draws: Sequence[int]
    options: dict[str, Any]
    seed: int

    @property
    def kind(self) -> Any:
        return ("generate", self.seed, repr(sorted(self.options.items(), key=lambda item: item[0])))


@dataclass(frozen=True, eq=False)
class _Logits:
    ids: Tensor
    mask: Tensor
    starts: Sequence[int] | None
    reduce: Reduce | None

    @property
    def kind(self) -> Any:
        return ("logits", self.ids.shape[1], self.starts is None)


class _Stopped(BaseException):
    """Raised in a waiting job when the others have failed."""


class _Turn:
    """A job in a thread of its own that runs only between ``resume`` and its next request."""

    def __init__(self, index: int, job: Callable[["_Turn", int], Any]):
        self.index = index
        self.result: Any = None
        self.request: Any = None
        self.answer: Any = None
        self._to: SimpleQueue[Any] = SimpleQueue()
        self._from: SimpleQueue[Any] = SimpleQueue()
        self._random = torch.get_rng_state()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=lambda: context.run(self._run, job), daemon=True)

    def _run(self, job: Callable[["_Turn", int], Any]) -> None:
        try:
            if isinstance(self._to.get(), _Stopped):
                return
            self._from.put(("done", job(self, self.index)))
        except _Stopped:
            pass
        except BaseException as error:
            self._from.put(("failed", error))

    def ask(self, request: Any) -> Any:
        """In the job's thread: wait for an answer."""
        self._from.put(("asks", request))
        answer = self._to.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def resume(self, answer: Any) -> None:
        """In the main thread: let the job run until it asks again, ends or fails (which is raised here)."""
        if not self._thread.ident:
            self._thread.start()
        outside = torch.get_rng_state()
        torch.set_rng_state(self._random)  # each job draws its own random numbers, as it would alone
        try:
            self._to.put(answer)
            kind, value = self._from.get()
            self._random = torch.get_rng_state()
        finally:
            torch.set_rng_state(outside)
        self.request = self.answer = None
        if kind == "failed":
            raise value
        if kind == "done":
            self.result = value
        else:
            self.request = value

    def stop(self) -> None:
        """End the thread, if it still waits."""
        if self._thread.ident and self._thread.is_alive():
            self._to.put(_Stopped())
            self._thread.join()


class _Asking(Watched):
    """The stand-in: asks for logits and answers, and refuses what rows of a batch cannot have."""

    def __init__(self, model: LensModel, turn: _Turn):
        super().__init__(model)
        self._turn = turn

    def _refuse(self, what: str) -> Any:
        raise NeedsWeights(f"{what} of {self.name} were asked for while several conditions share its forward passes.")

    def _weight(self, site: Site, layer: int) -> Tensor:
        return self._refuse("weights")

    def __getattr__(self, name: str) -> Any:
        return self._refuse(f"inner parts ({name})")

    def bias(self, site: Site, layer: int) -> Tensor | None:
        """Refused."""
        return self._refuse("biases")

    @property
    def twin(self) -> nn.Module:
        """Refused."""
        return self._refuse("weights")

    def weight_hash(self) -> str:
        """Refused."""
        return self._refuse("weights")

    def intercept(self, fns: Mapping[Place, SiteFn]) -> AbstractContextManager[None]:
        """Refused."""
        return self._refuse("hooks")

    def intercept_twin(self, fns: Mapping[Place, SiteFn]) -> AbstractContextManager[None]:
        """Refused."""
        return self._refuse("hooks")

    def _stream(self, prompts: Sequence[Sequence[int]], **options: Any) -> Iterator[list[list[int]]]:
        return self._refuse("tokens as they come")

    def _watched(self, watchers: Mapping[str, Callable[[Tensor], None]]) -> AbstractContextManager[None]:
        return self._refuse("hooks")

    def _unembedding(self) -> Tensor:
        return self._refuse("weights")

    def post_norm(self, site: Site, layer: int) -> Norm | None:
        """Refused."""
        return self._refuse("weights")

    @property
    def final_norm(self) -> Norm:
        """Refused."""
        return self._refuse("weights")

    def run(self, input_ids: Tensor, attention_mask: Tensor) -> None:
        """Refused: nothing can be intercepted."""
        self._refuse("hooks")

    def logits(
        self, input_ids: Tensor, attention_mask: Tensor, *, starts: Sequence[int] | None = None, reduce: Reduce | None = None
    ) -> Tensor:
        """Asked of all conditions at once."""
        return self._turn.ask(_Logits(input_ids, attention_mask, starts, reduce))

    def _continue(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        draws = options.pop("draws")
        return self._turn.ask(_Generate(prompts, draws_of(prompts) if draws is None else draws, options, current_seed()))


def _alike(turns: Sequence[_Turn]) -> list[list[_Turn]]:
    """Turns whose requests can share a batch."""
    groups: dict[Any, list[_Turn]] = {}
    for turn in turns:
        groups.setdefault(turn.request.kind, []).append(turn)
    return list(groups.values())


def _serve(model: LensModel, rows: Rows, turns: Sequence[_Turn]) -> None:
    try:
        if isinstance(turns[0].request, _Generate):
            _serve_answers(model, rows, turns)
        else:
            _serve_logits(model, rows, turns)
    except Exception as error:  # the jobs see it, as they would alone
        for turn in turns:
            turn.answer = error


def _serve_answers(model: LensModel, rows: Rows, turns: Sequence[_Turn]) -> None:
    asked: list[_Generate] = [turn.request for turn in turns]
    sizes = [len(each.prompts) for each in asked]
    rows.which = torch.tensor([turn.index for turn, size in zip(turns, sizes, strict=True) for _ in range(size)])
    with seeded(asked[0].seed):
        answers = model.generate(
            [prompt for each in asked for prompt in each.prompts],
            draws=[draw for each in asked for draw in each.draws],
            **asked[0].options,
        )
    for turn, size in zip(turns, sizes, strict=True):
        turn.answer, answers = answers[:size], answers[size:]


def _serve_logits(model: LensModel, rows: Rows, turns: Sequence[_Turn]) -> None:
    width = turns[0].request.ids.shape[1]
    most = max(1, LOGITS_AT_ONCE // (width * model.shapes.d_vocab))
    waiting = list(turns)
    while waiting:
        batch = [waiting.pop(0)]
        while waiting and sum(len(turn.request.ids) for turn in (*batch, waiting[0])) <= most:
            batch.append(waiting.pop(0))
        asked: list[_Logits] = [turn.request for turn in batch]
        sizes = [len(each.ids) for each in asked]
        rows.which = torch.tensor([turn.index for turn, size in zip(batch, sizes, strict=True) for _ in range(size)])
        starts = None if asked[0].starts is None else [start for each in asked for start in each.starts or ()]
        logits = model.logits(torch.cat([each.ids for each in asked]), torch.cat([each.mask for each in asked]), starts=starts)
        for turn, each, part in zip(batch, asked, logits.split(sizes), strict=True):
            turn.answer = part if each.reduce is None else each.reduce(part)


def enough_together(prompts: int, rows: int) -> int:
    """How many conditions fill a batch of so many rows with so many prompts each: between 2 and 8."""
    return min(8, max(2, math.ceil(rows / max(1, prompts))))
