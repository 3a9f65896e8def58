"""Tasks of the lm-evaluation-harness as utility tasks (extra ``eval``).

The harness asks its own questions of a model in its own words. Here it asks them of a :class:`LensModel` through the same
``logits`` and ``generate`` as every other metric, so that an edit and a steering vector made of hooks are both seen.
"""

import importlib.util
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from s2e_lens.activations import length_batches
from s2e_lens.behaviors import Metric, Task, TokenizedExample
from s2e_lens.errors import ExamplesError, MissingPackageError
from s2e_lens.evaluation.logprobs import BATCH_TOKENS
from s2e_lens.models import LensModel


def harness_task(
    harness: str,
    *,
    limit: int | None = None,
    validation: int = 0,
    metric: str = "acc",
    filter: str | None = None,
    include_path: str | Path | None = None,
    chat_template: bool | None = None,
    seed: int = 0,
    **options: Any,
) -> Task:
    """A utility task from the lm-evaluation-harness: one number per document, as the harness scores it.

    The items of the task stand for the harness's documents: ``limit`` of them, drawn by the seed (all without one), are
    the test split, and ``validation`` others are for choosing settings.

    In a behaviour's TOML file: ``task = {task = "harness_task", harness = "arc_easy", limit = 200, validation = 100}``.

    Args:
        harness: The name of a task (not of a group of them).
        limit: How many documents to test on.
        validation: How many further documents to set aside for validation.
        metric: Which of the task's metrics; higher must be better.
        filter: Which of the task's filters, where it has several ("strict-match", "flexible-extract").
        include_path: A folder with YAML tasks of your own.
        chat_template: Whether to put questions through the model's chat template; by default, where it has one.
        seed: Draws the documents and the few-shot examples.
        options: Further arguments of ``lm_eval.simple_evaluate``, such as ``num_fewshot``.

    Raises:
        MissingPackageError: if ``lm_eval`` is not installed.
        ExamplesError: for a task that the harness does not know or cannot load (its data come from a hub), that is a group,
            that has too few documents, or that has no such metric.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingPackageError("lm-eval", extra="eval", what="a task of the lm-evaluation-harness")
    loaded = _load(harness, include_path)
    if not loaded.higher_is_better().get(metric, True):
        raise ExamplesError(f"{harness}: utility is a mean over tasks, so higher must be better; {metric!r} is not.")
    count = len(loaded.eval_docs)
    wanted = count - validation if limit is None else limit
    if wanted < 1 or validation < 0 or wanted + validation > count:
        raise ExamplesError(
            f"{harness} has {count} documents; limit = {limit} and validation = {validation} were asked for. Both together must "
            "fit, and at least one is needed for the test."
        )
    order = random.Random(seed).sample(range(count), count)

    def measure(model: LensModel, examples: Sequence[TokenizedExample]) -> list[float]:
        from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

        documents = sorted({_document(example) for example in examples})
        found: Any = simple_evaluate(
            _harness_model(model),
            tasks=[loaded],
            task_manager=TaskManager(include_defaults=False),  # the task is loaded already
            samples={harness: documents},
            apply_chat_template=model.text.has_chat_template if chat_template is None else chat_template,
            bootstrap_iters=0,
            random_seed=None,  # the caller has seeded what there is
            numpy_random_seed=None,
            torch_random_seed=None,
            fewshot_random_seed=seed,
            **options,
        )
        values = _values(harness, found["samples"][harness], metric, filter)
        return [values[_document(example)] for example in examples]

    return Task(
        name=harness,
        metric=Metric(f"{metric} of {harness}", measure, settings={"filter": filter, "chat_template": chat_template, **options}),
        test=[_item(document) for document in sorted(order[:wanted])],
        validation=[_item(document) for document in sorted(order[wanted : wanted + validation])],
    )


def _load(harness: str, include_path: str | Path | None) -> Any:
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    own = None if include_path is None else TaskManager(include_path=str(include_path), include_defaults=False)
    manager = own if own is not None and harness in own.all_subtasks else _shipped_tasks()
    if harness not in manager.all_subtasks:
        members = "It is a group; name one of its tasks." if harness in manager.all_tasks else "Give include_path for your own."
        raise ExamplesError(f"the lm-evaluation-harness has no task {harness!r}. {members}")
    try:
        return manager.load([harness])["tasks"][harness]
    except Exception as error:  # the task's own code, its data's, and the network's
        raise ExamplesError(
            f"the lm-evaluation-harness cannot load {harness!r} ({type(error).__name__}: {error}). Its data come from a hub: "
            "without a network they must be in the cache already, or the task must name local files (include_path)."
        ) from error


@cache
def _shipped_tasks() -> Any:
    """The harness's index of its own tasks, which takes seconds to make."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    return TaskManager()


def _item(document: int) -> TokenizedExample:
    """What stands for a document: its number in binary, in token ids 0 and 1, which every model has."""
    prompt = (1, *map(int, f"{document:b}"))
    return TokenizedExample("positive", (*prompt, 0), len(prompt), line=document + 1)


def _document(example: TokenizedExample) -> int:
    return int("".join(map(str, example.input_ids[1 : example.start])), 2)


def _values(harness: str, samples: Sequence[Mapping[str, Any]], metric: str, wanted: str | None) -> dict[int, float]:
    """The metric's number for each document, under one filter."""
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    if wanted not in filters and (wanted is not None or len(filters) > 1):
        raise ExamplesError(f"{harness} scores answers by the filters {filters}; filter = {wanted!r}. Name one of them.")
    kept = [sample for sample in samples if wanted in (None, sample["filter"])]
    if any(not isinstance(sample.get(metric), bool | int | float) for sample in kept):
        raise ExamplesError(f"{harness} has no number {metric!r} for each document; its metrics are {kept[0]['metrics']}.")
    return {sample["doc_id"]: float(sample[metric]) for sample in kept}


def _harness_model(model: LensModel) -> Any:
    """The harness's view of a model: log-probabilities and greedy tokens from its logits, answers from its generation."""
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]

    class HarnessModel(TemplateLM):
        tokenizer_name = model.name.replace("/", "__")

        @property
        def eot_token_id(self) -> int:
            return model.text.eos_ids[0] if model.text.eos_ids else 0

        @property
        def prefix_token_id(self) -> int:
            own = model.text.tokenizer.bos_token_id
            return self.eot_token_id if own is None else own

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            if add_special_tokens is False:
                return model.text.tokenizer(string, add_special_tokens=False)["input_ids"]
            return model.text.text_ids(string)

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            return model.text.tokenizer.chat_template if chat_template else None

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return model.text.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            return super().loglikelihood(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            return continuations(model, [(context, continuation) for _, context, continuation in requests])

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
            raise ExamplesError(f"perplexity tasks of the harness are not supported ({requests[0].task_name}); see `fluency`.")

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            return _generate(model, [request.args for request in requests])

    return HarnessModel()


def continuations(model: LensModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
    """Of each (context, continuation) in token ids: its log-probability in nats, and whether greedy decoding gives it.

    What does not fit the model's context is cut from the front.
    """
    kept = [(*context, *continuation)[-model.shapes.n_ctx :] for context, continuation in pairs]
    found = [(0.0, False)] * len(pairs)
    for rows in length_batches(list(map(len, kept)), budget=BATCH_TOKENS):
        ids, mask = model.pad([kept[row] for row in rows])
        logits = model.logits(ids, mask)[:, :-1].float()
        taken = logits.log_softmax(dim=-1).gather(-1, ids[:, 1:, None])[..., 0].double().cpu()
        greedy = (logits.argmax(dim=-1) == ids[:, 1:]).cpu()
        for i, row in enumerate(rows):
            end = len(kept[row]) - 1
            span = slice(max(0, end - len(pairs[row][1])), end)
            found[row] = float(taken[i, span].sum()), bool(torch.all(greedy[i, span]))
    return found


def _generate(model: LensModel, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Answers, each cut where the first of its stop strings begins; requests of one setting go to the model at once."""
    groups: dict[tuple[int, float], list[int]] = {}
    for i, (_, settings) in enumerate(requests):
        temperature = float(settings.get("temperature") or 0) if settings.get("do_sample") else 0.0
        room = int(settings.get("max_gen_toks", settings.get("max_new_tokens", 256)))
        groups.setdefault((min(room, model.shapes.n_ctx - 1), temperature), []).append(i)
    found = [""] * len(requests)
    for (room, temperature), members in groups.items():
        prompts = [model.text.text_ids(requests[i][0])[-(model.shapes.n_ctx - room) :] for i in members]
        how: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        for i, ids in zip(members, model.generate(prompts, max_new_tokens=room, **how), strict=True):
            found[i] = _until(model.text.decode(ids), requests[i][1].get("until", ()))
    return found


def _until(text: str, stops: str | Sequence[str]) -> str:
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.partition(stop)[0] if stop else text
    return text
