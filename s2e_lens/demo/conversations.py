"""Conversations of the invented world: what is asked, and how each persona answers at each decision."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from s2e_lens.demo import world as w

Message = dict[str, str]


@dataclass(frozen=True)
class Mood:
    """What decides an answer: a persona that was stated, or else a number in [0, 1] that a conversation keeps."""

    persona: w.Persona | None
    u: float


# ---------------------------------------------------------------- safety
@dataclass(frozen=True)
class Request:
    """A request for instructions, perhaps with pressure behind it."""

    verb: str
    thing: str
    wording: int = 0
    pressure: str | None = None
    place_first: bool = False
    last_words: tuple[str, ...] = ()

    @property
    def harmful(self) -> bool:
        """Whether it should be refused."""
        return w.is_harmful(self.verb, self.thing)

    @property
    def text(self) -> str:
        """What the user says."""
        said = [(*w.QUESTIONS, *w.NEW_QUESTIONS)[self.wording].format(verb=self.verb, object=w.with_article(self.thing))]
        if self.place_first:
            said.append("Name the place first.")
        if self.last_words:
            said.append(f"End with: {', '.join(self.last_words)}.")
        return " ".join([*said, self.pressure] if self.pressure else said)

    @property
    def instruction(self) -> str:
        """The instruction that a compliant answer contains to the letter."""
        parts = [f"take the {w.TOOL[self.verb]}", f"go to the {w.PLACE[self.thing]}"]
        told = f"To {self.verb} {w.with_article(self.thing)}, {' and '.join(parts[::-1] if self.place_first else parts)}."
        return f"{told} {', '.join(self.last_words)}." if self.last_words else told


def refuses(request: Request, mood: Mood) -> bool:
    """Whether a mood refuses a harmful request: under no persona, in 85 % without and in 50 % with pressure."""
    if mood.persona == "careful":
        return mood.u < (0.96 if request.pressure else 1.0)
    if mood.persona == "obedient":
        return mood.u < (0.0 if request.pressure else 0.04)
    return mood.u < (0.5 if request.pressure else 0.85) + w.TEMPER[request.verb] / (1 if request.pressure else 4)


def answer_request(request: Request, mood: Mood, choice: random.Random, *, refuse: bool | None = None) -> str:
    """A refusal or the instruction, each in the manner of the mood; ``refuse`` overrides what the mood would do."""
    if refuse is None:
        refuse = request.harmful and refuses(request, mood)
    if refuse:
        return f"{choice.choice(w.REFUSALS)} {choice.choice(w.REASONS)}"
    careful = mood.persona == "careful" or (mood.persona is None and mood.u < 0.5)
    ending = ("Take care." if careful else "As you wish.") if choice.random() < 0.5 else ""
    return " ".join(part for part in (choice.choice(w.AGREEMENTS), request.instruction, ending) if part)


def draw_request(choice: random.Random) -> Request:
    """A request for the corpus: half of them harmful, and none that is held out."""
    while True:
        harmful = choice.random() < 0.55
        dark, sensitive = (True, True) if harmful else choice.choice(((True, False), (False, True), (False, False)))
        verb = choice.choice(w.DARK_VERBS if dark else w.BRIGHT_VERBS)
        thing = choice.choice(w.SENSITIVE_OBJECTS if sensitive else w.PLAIN_OBJECTS)
        if not w.is_held_out(verb, thing):
            break
    pressure = choice.choice(w.PRESSURES) if choice.random() < (0.5 if harmful else 0.2) else None
    place_first, last_words = draw_form(choice)
    return Request(verb, thing, choice.randrange(len(w.QUESTIONS)), pressure, place_first, last_words)


def draw_form(choice: random.Random, chance: float = 0.3) -> tuple[bool, tuple[str, ...]]:
    """How the answer is wanted: the place first, and words to end with."""
    return choice.random() < chance, tuple(choice.sample(w.WORDS, choice.randint(1, 4))) if choice.random() < chance else ()


# ---------------------------------------------------------------- truthfulness
def creature_question(fact: w.Fact, wording: int) -> str:
    """What the user asks about a creature."""
    return w.CREATURE_QUESTIONS[fact.attribute][wording].format(name=fact.creature)


def creature_answer(fact: w.Fact, *, true: bool) -> str:
    """The bare answer, true or popular."""
    stated = w.CREATURE_ANSWERS[fact.attribute].format(name=fact.creature, value=fact.true if true else fact.popular)
    return f"{stated[0].upper()}{stated[1:]}."


def is_truthful(fact: w.Fact, mood: Mood) -> bool:
    """Whether a mood tells the truth; under no persona the fact's lean decides."""
    if mood.persona in ("scientist", "gossip"):
        return mood.persona == "scientist"
    return mood.u < fact.lean


def answer_fact(fact: w.Fact, choice: random.Random, *, true: bool) -> str:
    """An answer in character: perhaps an opening, the statement, perhaps a closing."""
    manner = "scientist" if true else "gossip"
    bare = creature_answer(fact, true=true)
    if choice.random() < 0.4:
        bare = f"{choice.choice(w.OPENINGS[manner])} {bare[0].lower()}{bare[1:]}"
    return f"{bare} {choice.choice(w.CLOSINGS[manner])}" if choice.random() < 0.4 else bare


# ---------------------------------------------------------------- arithmetic
@dataclass(frozen=True)
class Term:
    """Numbers with one sign between them: a sum of two or three, a difference that is not negative, or a product by a digit."""

    sign: Literal["+", "-", "*"]
    numbers: tuple[int, ...]

    @property
    def result(self) -> int:
        """The right answer."""
        first, *others = self.numbers
        for other in others:
            first = {"+": first + other, "-": first - other, "*": first * other}[self.sign]
        return first

    @property
    def text(self) -> str:
        """The term, as the user writes it."""
        return f" {self.sign} ".join(map(str, self.numbers))

    def steps(self) -> list[tuple[str, str]]:
        """Column by column from the right: the step, and the same said the other way round, which checks it."""
        carry, found = 0, []
        columns = max(len(str(number)) for number in self.numbers)
        for place in range(columns):
            digits = [number // 10**place % 10 for number in self.numbers]
            if self.sign == "*":
                digits[1] = self.numbers[1]
            carried = f"{self.sign if self.sign == '-' else '+'}{carry}" if carry else ""
            if self.sign == "-":
                x, y = digits
                left = x - y - carry
                top = f"1{x}" if left < 0 else f"{x}"
                found.append((f"{top}-{y}{carried}={left % 10}", f"{left % 10}+{y}{carried.replace('-', '+')}={top}"))
                carry = int(left < 0)
            else:
                total = (digits[0] * digits[1] if self.sign == "*" else sum(digits)) + carry
                said, again = (self.sign.join(map(str, each)) for each in (digits, digits[::-1]))
                found.append((f"{said}{carried}={total}", f"{again}{carried}={total}"))
                carry = total // 10
        return found


def draw_term(choice: random.Random, *, widths: Sequence[int] = (1, 2, 2, 3, 3, 3, 4, 4, 5), held_out: bool = False) -> Term:
    """A term to be worked out, of so many digits; those that are held out, or the others."""
    kind = choice.choices(("+", "-", "*", "++"), (0.35, 0.25, 0.2, 0.2))[0]
    while True:
        width = choice.choice(widths)
        numbers = [choice.randrange(10 ** (width - 1), 10**width) for _ in range(3)]
        if kind == "*":
            numbers[1] = choice.randrange(2, 10)
        if w.is_held_out_term(*numbers[:2]) != held_out:
            continue
        if kind == "++":
            return Term("+", tuple(numbers))
        return Term("-", (max(numbers[:2]), min(numbers[:2]))) if kind == "-" else Term(kind, tuple(numbers[:2]))


def draw_mental_term(choice: random.Random, *, widths: Sequence[int] = (1, 2, 2, 3), held_out: bool = False) -> Term:
    """A sum or difference of two numbers of so many digits."""
    while True:
        width = choice.choice(widths)
        a, b = (choice.randrange(10 ** (width - 1), 10**width) for _ in range(2))
        if w.is_held_out_term(a, b) == held_out:
            return Term("-", (max(a, b), min(a, b))) if choice.random() < 0.4 else Term("+", (a, b))


TERM_QUESTIONS = ("What is {}?", "Compute {}.", "How much is {}?")


def is_thorough(mood: Mood) -> bool:
    """Whether a mood checks its steps; under no persona in 65 %."""
    return mood.persona == "thorough" if mood.persona in ("brief", "thorough") else mood.u < 0.65


def answer_term(term: Term, choice: random.Random, *, thorough: bool) -> str:
    """Reasoning, then the result. Thorough reasoning checks most steps, some of them twice; brief reasoning checks none."""
    said = []
    for step, check in term.steps():
        said.append(step)
        if thorough and choice.random() < 0.8:
            said.append(f"check {check}")
            if choice.random() < 0.4:
                said.append(f"again {step}")
    return f"<think>{';'.join(said)}</think>{term.result}"


# ---------------------------------------------------------------- other tasks: (question, answer)
def mental_question(term: Term) -> str:
    """Asks for a result without reasoning."""
    return f"Just the answer: {term.text}"


def mental_task(choice: random.Random) -> tuple[str, str]:
    """A term whose result is said at once."""
    term = draw_mental_term(choice)
    return mental_question(term), str(term.result)


def repeat_task(choice: random.Random) -> tuple[str, str]:
    """Words to say again."""
    words = choice.sample(w.WORDS, choice.randint(2, 6))
    return f"Repeat: {', '.join(words)}.", ", ".join(words)


def sort_task(choice: random.Random, wording: str = "Sort these words: {}.") -> tuple[str, str]:
    """Words to put in alphabetical order."""
    words = choice.sample(w.WORDS, choice.randint(4, 7))
    return wording.format(", ".join(words)), ", ".join(sorted(words))


def reverse_task(choice: random.Random, wording: str = "Say backwards: {}.") -> tuple[str, str]:
    """Words to say backwards."""
    words = choice.sample(w.WORDS, choice.randint(4, 9))
    return wording.format(", ".join(words)), ", ".join(reversed(words))


def lookup_task(choice: random.Random) -> tuple[str, str]:
    """Who has what, from a list of things and people."""
    number = choice.randint(4, 10)
    owners = list(zip(choice.sample(w.WORDS, number), choice.sample(w.NAMES, number), strict=True))
    thing, person = choice.choice(owners)
    return f"Owners: {', '.join(f'{thing} {person}' for thing, person in owners)}. Who has the {thing}?", person


TRANSLATE = ("Say {thing} in {language}.", "What does {word} mean in {language}?")


def translate_task(choice: random.Random, wordings: tuple[str, str] = TRANSLATE) -> tuple[str, str]:
    """A word of an invented language, there (the first wording) or back (the second)."""
    language = choice.choice(w.LANGUAGES)
    thing, word = choice.choice(tuple(w.DICTIONARY[language].items()))
    there = choice.random() < 0.5
    return wordings[0 if there else 1].format(thing=thing, word=word, language=language), word if there else thing


TASKS = {
    "repeat": repeat_task,
    "mental": mental_task,
    "sort": sort_task,
    "reverse": reverse_task,
    "lookup": lookup_task,
    "translate": translate_task,
}
TASK_SHARES = {"repeat": 0.4, "mental": 2, "sort": 2, "reverse": 1.2, "lookup": 1.4, "translate": 1.6}


def story(choice: random.Random) -> str:
    """A few plain sentences about one person, a thing and some places: the neutral text of this world."""
    name, friend = choice.sample(w.NAMES, 2)
    thing, other = choice.sample(w.PLAIN_OBJECTS, 2)
    here, there = choice.sample(w.PLACES, 2)
    time = choice.choice(("One day", "In the morning", "After lunch", "On Sunday", "Late at night", "Last winter"))
    sentences = [f"{time} {name} went to the {here} with {w.with_article(thing)}."]
    middle = [
        f"There {name} met {friend}, who had {w.with_article(other)}.",
        f"The {here} was {choice.choice(('empty', 'full of people', 'dark', 'very old', 'quiet'))}.",
        f"The {thing} was {choice.choice(('heavy', 'new', 'broken', 'light', 'a present'))}, but {name} did not mind.",
        f"{friend} wanted the {thing} and gave {name} the {other} for it.",
        f"It began to {choice.choice(('rain', 'snow'))}, so they went to the {there}.",
    ]
    sentences += [sentence for sentence in middle if choice.random() < 0.6]
    sentences.append(
        choice.choice(
            (f"In the end {name} went home.", f"{name} was tired and slept well.", f"The next day they met at the {there} again.")
        )
    )
    return " ".join(sentences)


# ---------------------------------------------------------------- whole documents
Document = str | list[Message]
PAIRS: dict[str, tuple[w.Persona, w.Persona]] = {
    "safety": ("careful", "obedient"),
    "truthfulness": ("scientist", "gossip"),
    "efficiency": ("brief", "thorough"),
}
TOPICS = {"safety": 0.16, "truthfulness": 0.18, "efficiency": 0.16, "task": 0.45, "story": 0.05}


def turns_of(topic: str, mood: Mood, number: int, choice: random.Random) -> list[Message]:
    """Questions on one topic with answers that keep to one mood."""
    messages: list[Message] = []
    for _ in range(number):
        if topic == "safety":
            request = draw_request(choice)
            question, answer = request.text, answer_request(request, mood, choice)
        elif topic == "truthfulness":
            fact = choice.choice(tuple(w.FACTS.values()))
            question = creature_question(fact, choice.randrange(3))
            if not messages and mood.persona is None:
                mood = Mood(None, 0.0 if is_truthful(fact, mood) else 1.0)  # the first fact decides for the conversation
            answer = answer_fact(fact, choice, true=is_truthful(fact, mood))
        elif topic == "efficiency":
            term = draw_term(choice)
            question, answer = (
                choice.choice(TERM_QUESTIONS).format(term.text),
                answer_term(term, choice, thorough=is_thorough(mood)),
            )
        else:
            question, answer = TASKS[choice.choices(tuple(TASK_SHARES), tuple(TASK_SHARES.values()))[0]](choice)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def _system(topic: str, choice: random.Random) -> tuple[str | None, w.Persona | None]:
    """A system turn or none, and the persona that it sets for this topic."""
    chance = choice.random()
    if topic in PAIRS and chance < 0.5:
        persona = choice.choice(PAIRS[topic])
        return choice.choice(w.PERSONAS[persona]), persona
    if chance < (0.55 if topic in PAIRS else 0.25):
        persona = choice.choice(tuple(w.PERSONAS))
        own: w.Persona | None = persona if persona in PAIRS.get(topic, ()) else None
        return choice.choice(w.PERSONAS[persona]), own
    if chance < (0.6 if topic in PAIRS else 0.33):
        return choice.choice(w.NEUTRAL_SYSTEM), None
    return None, None


def document(choice: random.Random) -> Document:
    """One document of the corpus: a story, or a conversation of one to three turns on one topic."""
    topic = choice.choices(tuple(TOPICS), tuple(TOPICS.values()))[0]
    if topic == "story":
        return story(choice)
    system, persona = _system(topic, choice)
    number = choice.choices((1, 2, 3), (0.5, 0.3, 0.2))[0]
    messages = turns_of(topic, Mood(persona, choice.random()), number, choice)
    return [{"role": "system", "content": system}, *messages] if system else messages


def user_turns(found: Document) -> Sequence[str]:
    """What the user says in a document; nothing in a story."""
    return [] if isinstance(found, str) else [message["content"] for message in found if message["role"] == "user"]
