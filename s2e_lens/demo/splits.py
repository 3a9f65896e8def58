"""The demo's questions: for extraction, validation and test, sharing none. ``python -m s2e_lens.demo.splits`` writes them.

What is held out differs by topic: requests by verb and object, facts by creature, terms by operand, lists by content. A
measured question never stands in the training corpus, but for what can only be known by heart (creatures, dictionary).
"""

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from s2e_lens.demo import conversations as c
from s2e_lens.demo import world as w
from s2e_lens.storage import write_text

DATA = Path(__file__).parent / "data"
SEED = 17
PER_TASK = {"validation": 48, "test": 100}
EXTRACTION_TERMS = 120

Record = dict[str, Any]

SIDES: dict[str, tuple[tuple[w.Persona, str], ...]] = {
    name: ((positive, "positive"), (negative, "negative")) for name, (positive, negative) in c.PAIRS.items()
}


def _record(label: str, prompt: Any, response: str) -> Record:
    return {"label": label, "prompt": prompt, "response": response}


def _in_character(persona: w.Persona, question: str, choice: random.Random) -> list[c.Message]:
    wording = choice.choice(w.PERSONAS[persona][: w.EXTRACTION_WORDINGS])
    return [{"role": "system", "content": wording}, {"role": "user", "content": question}]


def _pairs_of(verbs: Sequence[str], things: Sequence[str], split: w.Split) -> list[tuple[str, str]]:
    return [
        (verb, thing)
        for verb, thing in itertools.product(verbs, things)
        if w.VERB_SPLIT[verb] == split and w.OBJECT_SPLIT[thing] == split
    ]


def safety(split: w.Split, choice: random.Random) -> Iterator[Record]:
    """Harmful requests: to extract from, with and without pressure and under a persona; to measure, under pressure and none.

    Half of the measured requests press twice, which no conversation of the corpus does.
    """
    pressures = [pressure for pressure in w.PRESSURES if w.PRESSURE_SPLIT[pressure] == split]
    for verb, thing in _pairs_of(w.DARK_VERBS, w.SENSITIVE_OBJECTS, split):
        if split == "train":
            for pressed in (None, choice.choice(pressures)):
                request = c.Request(verb, thing, choice.randrange(len(w.QUESTIONS)), pressed)
                for persona, label in SIDES["safety"]:
                    answer = c.answer_request(request, c.Mood(persona, 0.5), choice, refuse=label == "positive")
                    yield _record(label, _in_character(persona, request.text, choice), answer)
        else:
            for wording in (0, 1) if split == "validation" else (choice.randrange(3),):
                request = c.Request(verb, thing, wording, " ".join(choice.sample(pressures, choice.choice((1, 2)))))
                for label in ("positive", "negative"):
                    answer = c.answer_request(request, c.Mood(None, 0.5), choice, refuse=label == "positive")
                    yield _record(label, request.text, answer)


def truthfulness(split: w.Split, choice: random.Random) -> Iterator[Record]:
    """Questions about creatures; a true answer is positive, the popular one negative."""
    for fact in w.FACTS.values():
        if w.CREATURE_SPLIT[fact.creature] != split:
            continue
        question = c.creature_question(fact, choice.randrange(3))
        for persona, label in SIDES["truthfulness"]:
            true = label == "positive"
            if split == "train":
                yield _record(label, _in_character(persona, question, choice), c.answer_fact(fact, choice, true=true))
            else:
                yield _record(label, question, c.creature_answer(fact, true=true))


def efficiency(split: w.Split, choice: random.Random) -> Iterator[Record]:
    """Terms to work out; brief reasoning is positive, reasoning that checks its steps negative.

    To extract from, answers end at a decision: the word after some step that shows whether it is checked. Whole answers differ
    mostly in what they are made of (digits, checks, ends), and a difference of means would hold that instead.
    """
    terms = _extraction_terms(choice) if split == "train" else _measured_terms()["efficiency", split]
    for term in terms:
        question = choice.choice(c.TERM_QUESTIONS).format(term.text)
        step = choice.randrange(len(term.steps()))
        for persona, label in SIDES["efficiency"]:
            check = label == "negative"
            if split == "train":
                answer = _to_a_decision(term, step, check=check)
                yield _record(label, _in_character(persona, question, choice), answer)
            else:
                yield _record(label, question, _in_full(term, choice, check=check))


def _extraction_terms(choice: random.Random) -> list[c.Term]:
    return list(dict.fromkeys(c.draw_term(choice) for _ in range(150)))[:EXTRACTION_TERMS]


def _in_full(term: c.Term, choice: random.Random, *, check: bool) -> str:
    """A whole answer; one that is to check its steps checks one at least."""
    while True:
        answer = c.answer_term(term, choice, thorough=check)
        if ("check" in answer) == check:
            return answer


def _to_a_decision(term: c.Term, step: int, *, check: bool) -> str:
    """Reasoning up to the word after a step that shows whether it is checked; the steps before it were, or were not."""
    said: list[str] = []
    for index, (worked, checked) in enumerate(term.steps()):
        said.append(worked)
        if index == step:
            break
        if check:
            said.append(f"check {checked}")
    head = f"<think>{';'.join(said)}"
    if check:
        return f"{head};check"
    following = term.steps()[step + 1 :]
    return f"{head};{following[0][0][0]}" if following else f"{head}</think>"


TERMS: dict[str, tuple[Callable[..., c.Term], tuple[int, ...]]] = {
    "efficiency": (c.draw_term, (1, 2, 2, 3, 3, 4)),
    "reasoning": (c.draw_term, (3, 4)),
    "mental": (c.draw_mental_term, (2,)),
}
"""How terms are drawn for each purpose, and of how many digits."""


@cache
def _measured_terms() -> dict[tuple[str, w.Split], list[c.Term]]:
    """Terms to measure on: none of their pairs of operands stands in the corpus, and no two lists share operands."""
    choice = random.Random(f"{SEED} terms")
    found: dict[tuple[str, w.Split], list[c.Term]] = {}
    seen: set[tuple[int, ...]] = set()
    for purpose, (draw, widths) in TERMS.items():
        for split in w.SPLITS[1:]:
            terms: list[c.Term] = []
            while len(terms) < PER_TASK[split]:
                term = draw(choice, widths=widths, held_out=True)
                if (operands := tuple(sorted(term.numbers))) not in seen:
                    seen.add(operands)
                    terms.append(term)
            found[purpose, split] = terms
    return found


def reasoning(split: w.Split, choice: random.Random) -> Iterator[Record]:
    """Arithmetic with reasoning: the result is what counts."""
    for term in _measured_terms()["reasoning", split]:
        yield _record("positive", choice.choice(c.TERM_QUESTIONS).format(term.text), str(term.result))


def mental(split: w.Split, choice: random.Random) -> Iterator[Record]:
    """Arithmetic without reasoning."""
    for term in _measured_terms()["mental", split]:
        yield _record("positive", c.mental_question(term), str(term.result))


def instructions(split: w.Split, choice: random.Random) -> Iterator[Record]:
    """Harmless requests, two thirds of which share their verb or their object with harmful ones, some under pressure."""
    pressures = [pressure for pressure in w.PRESSURES if w.PRESSURE_SPLIT[pressure] == split]
    kinds = [
        _pairs_of(verbs, things, split)
        for verbs, things in (
            (w.DARK_VERBS, w.PLAIN_OBJECTS),
            (w.BRIGHT_VERBS, w.SENSITIVE_OBJECTS),
            (w.BRIGHT_VERBS, w.PLAIN_OBJECTS),
        )
    ]
    for kind in kinds:
        choice.shuffle(kind)
    mixed = [pair for three in zip(*kinds, strict=False) for pair in three]
    for verb, thing in mixed[: PER_TASK[split]]:
        pressed = choice.choice(pressures) if choice.random() < 0.2 else None
        new = choice.random() < NEW_WORDINGS
        wording = len(w.QUESTIONS) + choice.randrange(len(w.NEW_QUESTIONS)) if new else choice.randrange(len(w.QUESTIONS))
        request = c.Request(verb, thing, wording, pressed, *c.draw_form(choice, 0.5))
        yield _record("positive", request.text, request.instruction)


LISTS: dict[str, tuple[Callable[..., tuple[str, str]], tuple[Any, ...]]] = {
    "sort": (c.sort_task, ("Sort: {}.",)),
    "reverse": (c.reverse_task, ("Say backwards: {}?", "Say backwards: {}?", "Say these backwards: {}.")),
    "translate": (
        c.translate_task,
        (("Say the word {thing} in {language}.", "What does {word} mean?"), ("What is {thing} in {language}?", c.TRANSLATE[1])),
    ),
}
"""Tasks over lists and dictionaries, with wordings that stand nowhere in the corpus."""

NEW_WORDINGS = 0.5
"""Share of the tasks' questions that are asked in words that the corpus does not use."""


def _list_items(name: str) -> list[tuple[str, str]]:
    choice = random.Random(f"{SEED} {name}")
    draw, wordings = LISTS[name]
    found: dict[str, str] = {}
    while len(found) < sum(PER_TASK.values()):
        question, answer = draw(choice, choice.choice(wordings)) if choice.random() < NEW_WORDINGS else draw(choice)
        found[question] = answer
    return list(found.items())


def _list_task(name: str) -> Callable[[w.Split, random.Random], Iterator[Record]]:
    def records(split: w.Split, choice: random.Random) -> Iterator[Record]:
        items, border = _list_items(name), PER_TASK["validation"]
        for question, answer in items[:border] if split == "validation" else items[border:]:
            yield _record("positive", question, answer)

    return records


BEHAVIORS = {"safety": safety, "truthfulness": truthfulness, "efficiency": efficiency}
TASKS: dict[str, Callable[[w.Split, random.Random], Iterator[Record]]] = {
    "reasoning": reasoning,
    "mental": mental,
    "instructions": instructions,
    **{name: _list_task(name) for name in LISTS},
}
KNOWN_BY_HEART = ("truthfulness", "translate")
STORIES = 60


def records(name: str, split: w.Split) -> list[Record]:
    """The lines of one file."""
    make = BEHAVIORS.get(name) or TASKS[name]
    return list(make(split, random.Random(f"{SEED} {name} {split}")))


def stories() -> list[str]:
    """Neutral text of this world, none of which stands in the corpus."""
    choice = random.Random(f"{SEED} stories")
    return [c.story(choice) for _ in range(STORIES)]


def held_out() -> frozenset[str]:
    """Every question and story that the corpus must not hold."""
    found = set(stories())
    for name in (*BEHAVIORS, *TASKS):
        if name not in KNOWN_BY_HEART:
            for split in ("validation", "test"):
                found |= {record["prompt"] for record in records(name, split)}
    return frozenset(found)


def write(folder: Path = DATA) -> None:
    """Write every split as JSONL, and the stories as text."""
    for name in (*BEHAVIORS, *TASKS):
        for split in w.SPLITS if name in BEHAVIORS else w.SPLITS[1:]:
            lines = [json.dumps(record, ensure_ascii=False) for record in records(name, split)]
            write_text(folder / f"{name}.{split}.jsonl", "\n".join(lines) + "\n")
    write_text(folder / "stories.txt", "\n".join(stories()) + "\n")


if __name__ == "__main__":
    write()
