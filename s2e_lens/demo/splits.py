"""The demo's questions: for extraction, validation and test, sharing none. ``python -m s2e_lens.demo.splits`` writes them.

What is held out differs by topic: requests by verb and object, facts by creature, terms by operand, lists by content. A
measured question never stands in the training corpus, but for what can only be known by heart (creatures, dictionary).
"""

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from s2e_lens.demo import conversations as c
from s2e_lens.demo import world as w
from s2e_lens.storage import write_text

DATA = Path(__file__).parent / "data"
SEED = 17
PER_TASK = {"validation": 48, "test": 100}

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
    """Harmful requests: to extract from, with and without pressure under a persona; to measure, all with pressure and none."""
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
                request = c.Request(verb, thing, wording, choice.choice(pressures))
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

    To extract from, answers go no further than where the two part: past there, they differ in what they are made of (more
    or fewer digits, checks and ends), and a difference of means would hold that instead of the decision.
    """
    for term in _terms(split, {"train": 120, "validation": 48, "test": 100}[split], "efficiency"):
        question = choice.choice(c.TERM_QUESTIONS).format(term.text)
        for persona, label in SIDES["efficiency"]:
            if split == "train":
                yield _record(
                    label, _in_character(persona, question, choice), _to_first_decision(term, check=label == "negative")
                )
            else:
                yield _record(label, question, _in_full(term, choice, check=label == "negative"))


def _in_full(term: c.Term, choice: random.Random, *, check: bool) -> str:
    """A whole answer; one that is to check its steps checks one at least."""
    while True:
        answer = c.answer_term(term, choice, thorough=check)
        if ("check" in answer) == check:
            return answer


def _to_first_decision(term: c.Term, *, check: bool) -> str:
    """Reasoning up to the first word that shows whether steps are checked."""
    (step, _), *more = term.steps()
    if check:
        return f"<think>{step};check"
    return f"<think>{step};{more[0][0][0]}" if more else f"<think>{step}</think>"


def _terms(split: w.Split, number: int, purpose: str) -> list[c.Term]:
    """Different terms; those of validation and test stand in no corpus, and no two lists share one."""
    choice = random.Random(f"{SEED} terms {purpose == 'mental'}")
    draw = c.draw_mental_term if purpose == "mental" else c.draw_term
    if split == "train":
        return list(dict.fromkeys(draw(choice) for _ in range(2 * number)))[:number]
    pool = list(dict.fromkeys(draw(choice, held_out=True) for _ in range(2000)))
    sharing = ["mental"] if purpose == "mental" else ["efficiency", "reasoning"]
    shelf = 2 * sharing.index(purpose) + (split == "test")
    return pool[shelf :: 2 * len(sharing)][:number]


def reasoning(split: w.Split, choice: random.Random) -> Iterator[Record]:
    """Arithmetic with reasoning: the result is what counts."""
    for term in _terms(split, PER_TASK[split], "reasoning"):
        yield _record("positive", choice.choice(c.TERM_QUESTIONS).format(term.text), str(term.result))


def mental(split: w.Split, choice: random.Random) -> Iterator[Record]:
    """Arithmetic without reasoning."""
    for term in _terms(split, PER_TASK[split], "mental"):
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
        request = c.Request(verb, thing, choice.randrange(len(w.QUESTIONS)), pressed, *c.draw_form(choice, 0.5))
        yield _record("positive", request.text, request.instruction)


def _task(name: str) -> Callable[[w.Split, random.Random], Iterator[Record]]:
    def records(split: w.Split, choice: random.Random) -> Iterator[Record]:
        drawn = random.Random(f"{SEED} {name}")
        found: dict[str, str] = {}
        while len(found) < sum(PER_TASK.values()):
            question, answer = c.TASKS[name](drawn)
            found[question] = answer
        items = list(found.items())
        begin, end = (0, PER_TASK["validation"]) if split == "validation" else (PER_TASK["validation"], len(items))
        for question, answer in items[begin:end]:
            yield _record("positive", question, answer)

    return records


BEHAVIORS = {"safety": safety, "truthfulness": truthfulness, "efficiency": efficiency}
TASKS: dict[str, Callable[[w.Split, random.Random], Iterator[Record]]] = {
    "reasoning": reasoning,
    "mental": mental,
    "instructions": instructions,
    **{name: _task(name) for name in ("sort", "reverse", "lookup", "translate")},
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
