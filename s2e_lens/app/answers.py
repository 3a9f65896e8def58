"""Three answers to one prompt, token by token: by the model as it is, under steering, and edited.

They are rows of one batch that carry different interventions, so they advance together. A thread of their own asks for a few
tokens at a time and holds the model's lock only for these, so that other pages get their turn in between.
"""

import dataclasses
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from s2e_lens.app.state import State, StateError
from s2e_lens.app.workspace import ModelLock, Ready
from s2e_lens.editor.apply import edit_effects
from s2e_lens.effects import Intervention, Rows, intervene
from s2e_lens.errors import S2EError
from s2e_lens.models import LensModel
from s2e_lens.readout import NextTokens, next_tokens, projections
from s2e_lens.results import Edit, Site
from s2e_lens.steering import addition

T = TypeVar("T")

CONDITIONS = ("base", "steered", "edited")
LONGEST_TEXT = 200_000
"""Characters of a prompt that are worth tokenising."""

WRITERS = 4
"""Prompts that are answered at a time; more wait."""

KEPT = 32
"""Finished answers that are kept for pages that still have to fetch them."""

FORSAKEN = 20.0
"""Seconds after which answers that no page asks for are given up."""

PATIENCE = 0.3
"""Seconds: where colouring the tokens takes longer, it is done once, at the end."""


@dataclass(frozen=True, eq=False)
class Progress:
    """How far the three answers are."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...] = ((), (), ())
    along: tuple[dict[Site, Float[Tensor, "layer _"]] | None, ...] = (None, None, None)
    """y·v̂ at every site, layer and position of prompt and answer, as far as it is known."""
    next: tuple[NextTokens, ...] = ()
    """Next-token probabilities after the prompt."""
    done: bool = False
    error: str | None = None


@dataclass(eq=False)
class Writer:
    """One prompt that is being answered."""

    ready: Ready
    interventions: tuple[Intervention, ...]
    prompt: list[int]
    tokens: int
    progress: Progress
    seen: float = field(default_factory=monotonic)
    stopped: threading.Event = field(default_factory=threading.Event)


def conditions(ready: Ready, state: State, edit: Edit) -> tuple[Intervention, Intervention, Intervention]:
    """Nothing, steering of the state's strength, and the edit in its hook form."""
    return Intervention(), addition(ready.directions, state.strength), edit_effects(edit)


def prompt_tokens(model: LensModel, text: str, *, new: int = 1) -> list[int]:
    """The tokens of a prompt that a page gave, in the chat template where there is one.

    Raises:
        StateError: if it is empty or far too long.
        ModelError: if no room is left for so many new tokens.
    """
    if not text.strip():
        raise StateError("Type a prompt first.")
    if len(text) > LONGEST_TEXT:
        raise StateError(f"The prompt has {len(text):,} characters; at most {LONGEST_TEXT:,} are read.")
    ids = model.text.prompt_ids(text)
    model.check_room([ids], new)
    return ids


class Answering:
    """All prompts that are being answered. A page holds the name of its own and asks how far it is."""

    def __init__(self, lock: ModelLock):
        self._lock = lock
        self._writers: OrderedDict[str, Writer] = OrderedDict()
        self._guard = threading.Lock()
        self._places = threading.BoundedSemaphore(WRITERS)

    def start(self, ready: Ready, state: State, edit: Edit, *, instead_of: str | None = None) -> str:
        """Begin to answer a state's prompt, and give up what the page had asked before; returns a name to ask with.

        Raises:
            StateError: for a prompt that is empty or far too long.
            ModelError: for one that leaves no room for an answer.
        """
        self.stop(instead_of)
        ids = prompt_tokens(ready.model, state.prompt, new=state.tokens)
        writer = Writer(ready, conditions(ready, state, edit), ids, state.tokens, Progress(tuple(ids)))
        name = uuid.uuid4().hex
        with self._guard:
            self._writers[name] = writer
            while len(self._writers) > KEPT:
                _, oldest = self._writers.popitem(last=False)
                oldest.stopped.set()
        threading.Thread(target=self._run, args=(writer,), daemon=True, name="s2e-answers").start()
        return name

    def look(self, name: str) -> Progress | None:
        """How far it is; None for what was given up long ago."""
        with self._guard:
            writer = self._writers.get(name)
        if writer is None:
            return None
        writer.seen = monotonic()
        return writer.progress

    def stop(self, name: str | None) -> None:
        """Give up; what is there stays to be looked at."""
        with self._guard:
            writer = self._writers.get(name) if name else None
        if writer is not None:
            writer.stopped.set()

    def close(self) -> None:
        """Give up everything."""
        with self._guard:
            writers = list(self._writers.values())
        for writer in writers:
            writer.stopped.set()

    def _run(self, writer: Writer) -> None:
        try:
            with self._places:
                self._write(writer)
        except S2EError as error:
            self._tell(writer, error=str(error))
        except Exception as error:  # a lack of memory, a checkpoint's own code: the page says so
            self._tell(writer, error=f"{type(error).__name__}: {error}")
        self._tell(writer, done=True)

    def _write(self, writer: Writer) -> None:
        model, rows = writer.ready.model, Rows(writer.ready.model, writer.interventions)
        rows.which = torch.arange(len(CONDITIONS))
        with self._lock():
            self._tell(writer, next=tuple(self._under(writer, i, lambda: next_tokens(model, writer.prompt)) for i in range(3)))
        stream = model.stream([writer.prompt] * len(CONDITIONS), max_new_tokens=writer.tokens, draws=[0] * len(CONDITIONS))
        colouring = 0.0
        while not writer.stopped.is_set() and monotonic() - writer.seen < FORSAKEN:
            with self._lock():
                with rows.applied(on_twin=True):
                    answers = next(stream, None)
                if answers is None:
                    break
                begun = monotonic()
                along = self._coloured(writer, answers) if colouring < PATIENCE else writer.progress.along
                colouring = max(colouring, monotonic() - begun)
            self._tell(writer, answers=tuple(map(tuple, answers)), along=along)
        if colouring >= PATIENCE and not writer.stopped.is_set():
            with self._lock():
                self._tell(writer, along=self._coloured(writer, writer.progress.answers))

    def _coloured(
        self, writer: Writer, answers: Sequence[Sequence[int]]
    ) -> tuple[dict[Site, Float[Tensor, "layer _"]] | None, ...]:
        """y·v̂ of prompt and answer, each read under its own condition. (Where an answer ends early, it is not read again.)"""
        found = []
        for i, answer in enumerate(answers):
            known = writer.progress.along[i]
            ids = [*writer.prompt, *answer]
            if known is not None and known["mlp"].shape[-1] == len(ids):  # an answer only ever grows
                found.append(known)
                continue
            found.append(self._under(writer, i, lambda ids=ids: self._along(writer, ids)))
        return tuple(found)

    @staticmethod
    def _along(writer: Writer, ids: Sequence[int]) -> dict[Site, Float[Tensor, "layer _"]]:
        return projections(writer.ready.model, ids, writer.ready.directions, start=len(writer.prompt), force=True)

    @staticmethod
    def _under(writer: Writer, index: int, job: Callable[[], T]) -> T:
        """What a job gives under one of the conditions."""
        with intervene(writer.ready.model, writer.interventions[index]):
            return job()

    @staticmethod
    def _tell(writer: Writer, **news: Any) -> None:
        """Put a new record in the old one's place: whoever looks sees the one or the other."""
        writer.progress = dataclasses.replace(writer.progress, **news)
