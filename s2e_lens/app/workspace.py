"""What the server keeps: models (two at most), one lock around them, and a bounded cache of vectors and edit bases.

Nothing here belongs to a user or a page. Slow work (loading, extracting) is done by one thread in the background, under the
lock, so that pages go on answering; a page asks again until it is done.
"""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from s2e_lens.activations import collect_means
from s2e_lens.app.state import FILE, State, StateError, layers_text
from s2e_lens.attribution import SCORES, check_measured_on
from s2e_lens.behaviors import Behavior, load_behavior, shipped_behaviors, tokenize_examples
from s2e_lens.directions import METHODS, find_directions, needs_examples
from s2e_lens.editor import EditBasis, prepare_edit
from s2e_lens.editor.apply import check_editable
from s2e_lens.errors import S2EError
from s2e_lens.models import LensModel, load_model
from s2e_lens.results import Directions, Edit

MODELS = 2
"""Models that are kept in memory; a third one takes the place of the one that was used longest ago."""

BASES = 12
"""Sets of scores that are kept."""

SOON = 0.25
"""Seconds that a request waits for work which may be quick."""


@dataclass(frozen=True, eq=False)
class Ready:
    """A model with the vectors of a behaviour, and what edits along them need."""

    key: tuple[str, str, str, str]
    model: LensModel
    directions: Directions
    basis: EditBasis


@dataclass(frozen=True)
class Busy:
    """Not yet: what is being done."""

    message: str


@dataclass(frozen=True)
class Failed:
    """It cannot be had, and why."""

    message: str


class ModelLock:
    """One thread at a time uses a model, in the order in which they asked; without gradients."""

    def __init__(self) -> None:
        self._mine = threading.Condition()
        self._next = self._serving = 0
        self._left: set[int] = set()
        """Turns of threads that were interrupted while they waited."""
        self._owner: int | None = None
        self._depth = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the lock; a thread that holds it may ask again."""
        me = threading.get_ident()
        with self._mine:
            if self._owner != me:
                ticket, self._next = self._next, self._next + 1
                try:
                    self._mine.wait_for(lambda: self._serving == ticket)
                except BaseException:  # Ctrl-C in a notebook: the turn must pass to the next
                    self._left.add(ticket)
                    self._pass_over()
                    raise
                self._owner = me
            self._depth += 1
        try:
            with torch.no_grad():  # the grad mode is each thread's own
                yield
        finally:
            with self._mine:
                self._depth -= 1
                if not self._depth:
                    self._owner = None
                    self._serving += 1
                    self._pass_over()

    def _pass_over(self) -> None:
        """Let the next thread that still waits have its turn."""
        while self._serving in self._left:
            self._left.remove(self._serving)
            self._serving += 1
        self._mine.notify_all()


def settings_of(edit: Edit) -> dict[str, Any]:
    """The settings that an edit was planned with, for the sliders; nothing for a sum of edits, or one that was scaled."""
    known = edit.provenance.settings
    names = ("score", "rho_attn", "rho_mlp", "alpha", "relative")
    if not all(name in known for name in names) or {"sum_of", "scale"} & known.keys() or known["score"] not in SCORES:
        return {}
    layers = {"layers": layers_text(known["layers"])} if known.get("layers") else {}
    return {**{name: known[name] for name in names}, **layers}


class Workspace:
    """Models, vectors and scores for all pages of one explorer."""

    def __init__(
        self,
        model: LensModel,
        *,
        behaviors: Sequence[str | Path | Behavior] = (),
        directions: Directions | None = None,
        edit: Edit | None = None,
        loader: Callable[[str], LensModel] = load_model,
    ):
        """Keep a model, and offer its behaviours.

        Args:
            model: the first model.
            behaviors: besides those that come with the package: TOML files, or behaviours.
            directions: vectors from a file, offered as one more behaviour.
            edit: an edit from a file, offered beside the one of the sliders.
            loader: loads a model that a page names.

        Raises:
            MismatchError: if the directions or the edit were made on other weights.
            ExamplesError: if a behaviour's file cannot be read.
        """
        if directions is not None:
            check_measured_on(model, directions)
        if edit is not None:
            check_editable(model, edit)
        self.lock = ModelLock()
        self.directions, self.edit = directions, edit
        self.first = model.source
        self._loader = loader
        self._models: OrderedDict[str, LensModel] = OrderedDict({model.source: model})
        self._behaviors: dict[str, str | Path | Behavior] = {}
        for each in behaviors:
            known = each if isinstance(each, Behavior) or str(each) in shipped_behaviors() else load_behavior(each)
            self._behaviors[each.name if isinstance(each, Behavior) else str(each)] = known
        self._behaviors |= {name: name for name in shipped_behaviors() if name not in self._behaviors}
        self._vectors: OrderedDict[tuple[str, str, str], Directions] = OrderedDict()
        self._ready: OrderedDict[tuple[str, str, str, str], Ready] = OrderedDict()
        self._work: dict[Any, tuple[Future[Any], str, float]] = {}
        self._guard = threading.Lock()  # of the dictionaries; never held while a model runs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="s2e-explorer")

    @property
    def behaviors(self) -> list[str]:
        """Names that a page may choose from."""
        return [*([FILE] if self.directions is not None else []), *self._behaviors]

    def opening(self) -> State:
        """What a page without an address of its own shows."""
        behavior = self.behaviors[0]
        method = FILE if behavior == FILE else "difference-of-means"
        state = State(model=self.first, behavior=behavior, method=method)
        return state if self.edit is None else dataclasses.replace(state, edit=FILE, **settings_of(self.edit))

    def loaded(self) -> list[str]:
        """The models in memory, the one used last at the end."""
        with self._guard:
            return list(self._models)

    def model(self, name: str) -> LensModel:
        """A model in memory.

        Raises:
            StateError: if it is not.
        """
        with self._guard:
            if name not in self._models:
                raise StateError(f"{name} is not in memory (at most {MODELS} models are). Press “Load” to load it.")
            self._models.move_to_end(name)
            return self._models[name]

    def ask(self, state: State, *, load: bool = False) -> Ready | Busy | Failed:
        """Vectors and scores of a state, or why there are none yet. Returns soon, whatever is to be done.

        A model that is not in memory is loaded only with ``load``: an address that somebody sent shall not do so.
        """
        try:
            ready = self.get(state)
        except StateError as error:
            if not load:
                return Failed(str(error))
            ready = None
        if ready is not None:
            return ready
        if (state.behavior == FILE) != (state.method == FILE):
            state = dataclasses.replace(state, method=FILE if state.behavior == FILE else "difference-of-means")
        return self._started(state)

    def get(self, state: State) -> Ready | None:
        """Vectors and scores that are there already; needs neither the lock nor the model to be free.

        Raises:
            StateError: if the model is not in memory.
        """
        self.model(state.model)
        with self._guard:
            found = self._ready.get(state.key)
            if found is not None:
                self._ready.move_to_end(state.key)
            return found

    def need(self, state: State) -> Ready:
        """As :meth:`get`.

        Raises:
            StateError: if they are not there.
        """
        found = self.get(state)
        if found is None:
            raise StateError(
                f"The vectors of {state.behavior} are not in memory any more. Reload the page to extract them again."
            )
        return found

    def others(self, ready: Ready) -> dict[str, Directions]:
        """Vectors of other behaviours that were extracted on the same model in the same way."""
        name, behavior, method, _ = ready.key
        with self._guard:
            return {
                other: found
                for (on, other, by), found in self._vectors.items()
                if (on, by) == (name, method) and other != behavior
            }

    def _started(self, state: State) -> Ready | Busy | Failed:
        """Begin the work, or look how far it is."""
        with self._guard:
            if state.key not in self._work:
                known = state.model in self._models
                message = f"Extracting the vectors of {state.behavior} …" if known else f"Loading {state.model} …"
                self._work[state.key] = (self._thread.submit(self._prepare, state), message, monotonic())
            future, message, begun = self._work[state.key]
        try:
            ready = future.result(timeout=SOON)
        except TimeoutError:
            return Busy(f"{message} ({monotonic() - begun:.0f} s)")
        except S2EError as error:
            found: Ready | Failed = Failed(str(error))
        except Exception as error:  # a checkpoint's own code, a full disk, a lack of memory: the page says so and lives on
            found = Failed(f"{type(error).__name__}: {error}")
        else:
            found = ready
        with self._guard:
            self._work.pop(state.key, None)
        return found

    def _prepare(self, state: State) -> Ready:
        """In the background thread: load, extract and score whatever is missing."""
        name, behavior, method, score = state.key
        if name not in self.loaded():
            with self.lock():
                model = self._loader(name)
            self._keep_model(name, model)
        model = self.model(name)
        with self.lock():
            directions = self._directions(model, name, behavior, method)
            basis = prepare_edit(model, directions, score=SCORES[score])
        ready = Ready(state.key, model, directions, basis)
        with self._guard:
            self._ready[state.key] = ready
            while len(self._ready) > BASES:
                self._ready.popitem(last=False)
        return ready

    def _keep_model(self, name: str, model: LensModel) -> None:
        with self._guard:
            self._models[name] = model
            while len(self._models) > MODELS:
                gone, _ = self._models.popitem(last=False)
                caches: list[dict[Any, Any]] = [self._vectors, self._ready]
                for cache in caches:
                    for key in [key for key in cache if key[0] == gone]:
                        del cache[key]

    def _directions(self, model: LensModel, name: str, behavior: str, method: str) -> Directions:
        key = (name, behavior, method)
        if key in self._vectors:
            return self._vectors[key]
        if behavior == FILE and self.directions is not None:
            check_measured_on(model, self.directions)
            found = self.directions
        else:
            source = self._behaviors.get(behavior)
            if source is None:  # from an address: it may not name files, whose code would be run
                raise StateError(f"there is no behaviour {behavior!r} here: {', '.join(self.behaviors)}.")
            chosen = METHODS[method]
            train = (source if isinstance(source, Behavior) else load_behavior(source)).train
            means = collect_means(model, tokenize_examples(model, train), keep_examples=needs_examples(chosen))
            found = find_directions(means, method=chosen)
        with self._guard:
            self._vectors[key] = found
            while len(self._vectors) > BASES:
                self._vectors.popitem(last=False)
        return found

    def close(self) -> None:
        """Let the background thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)
