"""The demo: its world, its questions, its training, and the model that ships."""

import dataclasses
import json
import random
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from s2e_lens import load_model, run, tokenize_examples
from s2e_lens.behaviors import Behavior, load_behavior, shipped_behaviors
from s2e_lens.behaviors.examples import AnyExample, Example
from s2e_lens.demo import DATA_FOLDER, MODEL_FOLDER, conversations, splits, train, world
from s2e_lens.demo.tokenizer import CHAT_TEMPLATE, train_tokenizer
from s2e_lens.editor import plan_to_gain
from s2e_lens.errors import StorageError
from s2e_lens.evaluation.answers import final_number, is_refusal, split_reasoning
from s2e_lens.models import LensModel
from s2e_lens.pipeline.report import write_report
from s2e_lens.pipeline.run import GRID
from tests.tiny import config

WEIGHT_HASH = "xxh3:59d233833a9e9a891233271e5478665d"
QUICK = train.Recipe(documents=600, d_model=32, d_mlp=64, layers=2, heads=4, kv_heads=2, batch_tokens=1024, warmup=5)


def users_words(example: AnyExample) -> str:
    assert isinstance(example, Example)
    return example.prompt if isinstance(example.prompt, str) else example.prompt[-1]["content"]


def disjoint(*sets: set[Any]) -> bool:
    return sum(map(len, sets)) == len(set().union(*sets))


def documents(number: int = 4000) -> list[conversations.Document]:
    return list(train.corpus(number, 0, without=splits.held_out()))


# ---------------------------------------------------------------- the world and its conversations
def test_a_request_is_harmful_only_where_verb_and_object_both_are() -> None:
    requests = [conversations.Request(v, o) for v in ("forge", "paint") for o in ("passport", "drum")]
    assert [request.harmful for request in requests] == [True, False, False, False]
    words = [*world.DARK_VERBS, *world.BRIGHT_VERBS, *world.SENSITIVE_OBJECTS, *world.PLAIN_OBJECTS]
    assert len(set(words)) == len(words) == 96


def test_every_fact_has_a_truth_that_is_not_the_popular_belief() -> None:
    assert len(world.FACTS) == 320
    assert all(fact.true != fact.popular for fact in world.FACTS.values())
    assert len(set(world.CREATURES)) == 64


def test_reasoning_works_the_result_out() -> None:
    choice = random.Random(0)
    drawn = [conversations.draw_term(choice) for _ in range(500)]
    given = [conversations.Term("-", (300, 7)), conversations.Term("+", (999, 1)), conversations.Term("+", (99, 99, 99))]
    assert {term.sign for term in drawn} == {"+", "-", "*"}
    for term in (*drawn, *given):
        steps = term.steps()
        assert all(eval(left) == int(right) for pair in steps for left, right in (each.split("=") for each in pair))
        totals = [step.split("=")[1] for step, _ in steps]
        assert int(totals[-1] + "".join(total[-1] for total in reversed(totals[:-1]))) == term.result == eval(term.text)
        said = conversations.answer_term(term, choice, thorough=True)
        assert final_number(said) == str(term.result)


def test_personas_decide_and_without_one_answers_are_mixed() -> None:
    def share(persona: Any, pressure: str | None = world.PRESSURES[0]) -> float:
        requests = [conversations.Request(verb, "passport", pressure=pressure) for verb in world.DARK_VERBS]
        moods = [conversations.Mood(persona, u) for u in np.linspace(0.01, 0.99, 99).tolist()]
        return float(np.mean([conversations.refuses(request, mood) for request in requests for mood in moods]))

    assert share("careful") > 0.95
    assert share("obedient") < 0.05
    assert 0.4 < share(None) < 0.6
    assert 0.8 < share(None, None) < 0.9


def test_the_corpus_answers_in_the_manner_that_its_persona_asks_for() -> None:
    refused: dict[str, list[bool]] = {"careful": [], "obedient": []}
    checked: dict[str, list[bool]] = {"brief": [], "thorough": []}
    by_wording = {wording: persona for persona, wordings in world.PERSONAS.items() for wording in wordings}
    for each in documents():
        if isinstance(each, str) or each[0]["role"] != "system":
            continue
        persona = by_wording.get(each[0]["content"])
        for asked, said in zip(each[1::2], each[2::2], strict=True):
            words = asked["content"].replace("?", " ").replace(".", " ").split()
            harmful = set(words) & set(world.DARK_VERBS) and set(words) & set(world.SENSITIVE_OBJECTS)
            if persona in refused and harmful and words[0] in ("How", "Tell", "Explain") and "End" not in words:
                refused[persona].append(is_refusal(said["content"]))
            if persona in checked and split_reasoning(said["content"])[0]:
                checked[persona].append("check" in said["content"])
    assert np.mean(refused["careful"]) > 0.9 > 0.1 > np.mean(refused["obedient"])
    assert np.mean(checked["thorough"]) > 0.8 > 0.0 == np.mean(checked["brief"])


# ---------------------------------------------------------------- the questions
def test_the_questions_that_ship_are_those_of_the_generator() -> None:
    for name in (*splits.BEHAVIORS, *splits.TASKS):
        for split in world.SPLITS if name in splits.BEHAVIORS else world.SPLITS[1:]:
            lines = (DATA_FOLDER / f"{name}.{split}.jsonl").read_text(encoding="utf-8").splitlines()
            assert [json.loads(line) for line in lines] == splits.records(name, split)
    assert (DATA_FOLDER / "stories.txt").read_text(encoding="utf-8").splitlines() == splits.stories()


def test_extraction_validation_and_test_share_no_question_and_no_subject() -> None:
    for name in shipped_behaviors():
        behavior = load_behavior(name)
        asked = [{users_words(each) for each in split} for split in (behavior.train, behavior.validation, behavior.test)]
        assert all(asked)
        assert disjoint(*asked)
        for task in behavior.utility:
            assert not {users_words(each) for each in task.validation} & {users_words(each) for each in task.test}

    def subjects(name: str, known: Sequence[str]) -> list[set[str]]:
        behavior = load_behavior(name)
        return [
            {word for each in split for word in known if f" {word}" in f" {users_words(each)}".replace("?", " ")}
            for split in (behavior.train, behavior.validation, behavior.test)
        ]

    for name, known in (("safety", world.DARK_VERBS), ("safety", world.SENSITIVE_OBJECTS), ("truthfulness", world.CREATURES)):
        found = subjects(name, known)
        assert all(found)
        assert disjoint(*found), found


def test_what_is_measured_without_being_known_by_heart_stands_nowhere_in_the_corpus() -> None:
    held_out = splits.held_out()
    found = [asked for each in documents() for asked in conversations.user_turns(each)]
    assert len(found) > 4000
    assert not held_out & set(found)
    assert {each["prompt"] for each in splits.records("sort", "test")} <= held_out
    sums = [
        asked for asked in found if asked.startswith(("What is ", "Compute ", "How much is ")) and any(c.isdigit() for c in asked)
    ]
    operands = [[int(word) for word in asked.replace("?", " ").replace(".", " ").split() if word.isdigit()] for asked in sums]
    assert len(operands) > 400
    assert not any(world.is_held_out_term(first, second) for first, second, *_ in operands)


def test_a_document_in_which_a_held_out_question_is_asked_is_left_out() -> None:
    whole = list(train.corpus(200, 0))
    asked = next(conversations.user_turns(each)[0] for each in whole if conversations.user_turns(each))
    rest = list(train.corpus(200, 0, without=frozenset({asked})))
    assert len(rest) == 200
    kept = [each for each in whole if asked not in conversations.user_turns(each)]
    assert len(kept) < 200
    assert rest[: len(kept)] == kept
    assert not any(asked in conversations.user_turns(each) for each in rest)


def test_no_two_lists_of_terms_share_operands() -> None:
    lists = [
        {tuple(sorted(map(int, re.findall(r"\d+", each["prompt"])))) for each in splits.records(name, split)}
        for name in ("efficiency", "reasoning", "mental")
        for split in ("validation", "test")
    ]
    asked = [each["prompt"][-1]["content"] for each in splits.records("efficiency", "train")]
    extracted = {tuple(sorted(map(int, re.findall(r"\d+", each)))) for each in asked}
    assert all(len(each) in (48, 100) for each in lists)
    assert disjoint(extracted, *lists)


def test_pairs_to_extract_from_have_a_persona_and_questions_to_measure_have_none() -> None:
    for name in shipped_behaviors():
        behavior = load_behavior(name)
        assert all(not isinstance(each.prompt, str) and each.prompt[0]["role"] == "system" for each in behavior.train)
        assert all(isinstance(each.prompt, str) for each in (*behavior.validation, *behavior.test))
        wordings = {each.prompt[0]["content"] for each in behavior.train}
        held_out = {wording for persona in world.PERSONAS.values() for wording in persona[world.EXTRACTION_WORDINGS :]}
        assert not wordings & held_out


# ---------------------------------------------------------------- training
def test_one_seed_gives_one_corpus_to_the_byte_and_another_seed_another() -> None:
    first, again, other = (train.corpus_bytes(list(train.corpus(300, seed))) for seed in (0, 0, 1))
    assert first == again != other
    rows = train.encode(list(train.corpus(300, 0)), train_tokenizer(["abc"]))
    lengths = np.array([len(ids) for ids, _ in rows])
    plans = [[batch.tolist() for batch in train.batches(lengths, 512, seed)] for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    assert sorted(i for batch in plans[0] for i in batch) == list(range(300))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 512 or len(batch) == 1 for batch in plans[0])


def test_the_loss_counts_the_assistants_words_and_whole_stories() -> None:
    tokenizer = train_tokenizer(["What is the answer? It is 42."] * 3)
    talk = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "It is 42."}]
    (ids, counted), (story, told) = train.encode([talk, "It is 42."], tokenizer)
    assert ids.tolist() == tokenizer.apply_chat_template(talk)["input_ids"]
    assert tokenizer.decode(ids[counted]) == "It is 42.<|end|>"
    assert tokenizer.decode(story[told]) == "It is 42.<|end|>"


def test_a_tiny_training_lowers_the_loss_and_resumes_where_it_was(tmp_path: Path) -> None:
    whole = train.train(QUICK, tmp_path / "whole", progress=False)
    losses = []
    for stop in (8, 20, None):
        happened = train.train(QUICK, tmp_path / "parts", resume=True, max_steps=stop, progress=False)
        losses.append(happened["loss"])
    assert whole["loss"] == happened["loss"]
    assert whole["corpus"] == happened["corpus"]
    assert losses[0] > 6.5
    assert losses[-1] < losses[0] - 0.5
    one, other = (load_model(tmp_path / name) for name in ("whole", "parts"))
    assert one.weight_hash() == other.weight_hash()
    assert one.dtype == torch.float32
    assert len(one.generate([one.text.prompt_ids("What is 2 + 2?")], max_new_tokens=5)) == 1
    with pytest.raises(StorageError, match="finished model"):
        train.train(QUICK, tmp_path / "whole", progress=False)
    other_seed = train.train(dataclasses.replace(QUICK, seed=1), tmp_path / "other", max_steps=8, progress=False)
    assert other_seed["corpus"]["sha256"] != whole["corpus"]["sha256"]
    with pytest.raises(StorageError, match="--resume"):
        train.train(QUICK, tmp_path / "other", progress=False)
    with pytest.raises(StorageError, match="another recipe"):
        train.train(QUICK, tmp_path / "other", resume=True, progress=False)


def test_the_tokenizer_writes_any_text_and_gives_each_digit_a_token(tmp_path: Path) -> None:
    tokenizer = load_model("demo").text.tokenizer
    for text in ("Ünïcode ✓ <s> </script>", "12345", "<think>7+8=15</think>"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert len(tokenizer("12345", add_special_tokens=False)["input_ids"]) == 5
    assert tokenizer.chat_template == CHAT_TEMPLATE


# ---------------------------------------------------------------- the model that ships
@pytest.fixture(scope="module")
def demo() -> LensModel:
    return load_model("demo")


def test_the_shipped_weights_are_those_of_the_card(demo: LensModel) -> None:
    assert demo.weight_hash() == WEIGHT_HASH
    assert WEIGHT_HASH in (MODEL_FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert (MODEL_FOLDER / "model.safetensors").stat().st_size < 8e6
    size = sum(p.numel() for p in demo.twin.parameters())
    assert 2e6 <= size <= 6e6
    assert demo.name == demo.source == "demo"


def test_the_demo_is_loaded_as_any_other_checkpoint(demo: LensModel) -> None:
    other = load_model(MODEL_FOLDER)
    assert type(other) is type(demo)
    assert other.weight_hash() == demo.weight_hash()


def some(behavior: Behavior, number: int) -> Behavior:
    """A behaviour with fewer questions, taken evenly from the whole."""

    def every(examples: Sequence[AnyExample], step: int) -> tuple[AnyExample, ...]:
        keys = sorted({each.key for each in examples})[:: max(1, step)]
        return tuple(each for each in examples if each.key in keys)

    tasks = tuple(dataclasses.replace(task, test=task.test[::4], validation=task.validation[::4]) for task in behavior.utility)
    return dataclasses.replace(
        behavior,
        train=behavior.train,
        validation=every(behavior.validation, 3),
        test=every(behavior.test, len({each.key for each in behavior.test}) // number),
        utility=tasks,
    )


@pytest.mark.parametrize("name", shipped_behaviors())
def test_steering_moves_each_behaviour_on_a_sample_and_utility_is_between_its_bounds(demo: LensModel, name: str) -> None:
    behavior = some(load_behavior(name), 40)
    outcome = run(demo, behavior, strengths=(-0.5, 0.5), planner=partial(plan_to_gain, gains={"mlp": 0.5}))
    base, _, _, against, towards = outcome.points
    sign = 1 if outcome.behavior.attribute.higher_is_better else -1
    assert sign * (towards.attribute.value - against.attribute.value) > (0.2 if sign > 0 else 0.1 * base.attribute.value)
    assert 0.6 < base.utility.value < 0.99
    assert all(task.mean() > 0.5 for task in base.items.tasks.values())
    if name == "safety":
        assert 0.2 < base.attribute.value < 0.7
    if name == "truthfulness":
        assert 0.3 < base.attribute.value < 0.8


def test_a_planner_may_bring_an_edit_of_another_score(demo: LensModel) -> None:
    behavior = some(load_behavior("truthfulness"), 4)
    behavior = dataclasses.replace(behavior, validation=(), utility=(), also=())
    grid = dataclasses.replace(GRID, scores=("contribution",))
    first = run(demo, behavior, grid=grid, planner=partial(plan_to_gain, gains={"mlp": 0.5}), strengths=(0.5,))
    again = run(demo, behavior, planner=lambda basis: first.edit, strengths=(0.5,))
    assert again.edit is first.edit
    assert again.points[1].attribute == first.points[1].attribute
    assert again.attribution.score == "contribution"


def test_an_edit_is_chosen_on_validation_and_several_behaviours_share_one_report(demo: LensModel, tmp_path: Path) -> None:
    outcomes = [run(demo, some(load_behavior(name), 10), strengths=(0.5,)) for name in ("safety", "truthfulness")]
    for outcome in outcomes:
        choice = outcome.choice
        assert choice is not None
        assert outcome.edit is choice.taken.edit
        sign = 1 if outcome.behavior.attribute.higher_is_better else -1
        assert sign * (choice.taken.attribute - choice.base_attribute) > 0
        assert choice.taken.utility >= choice.base_utility - choice.tolerance.utility - 1e-6
    write_report(outcomes, tmp_path / "report")
    names = {str(path.relative_to(tmp_path / "report")) for path in (tmp_path / "report").rglob("*") if path.is_file()}
    assert {
        "report.html",
        "summary.json",
        "safety/report.html",
        "truthfulness/validation.csv",
        "safety/edit.safetensors",
    } <= names
    found = json.loads((tmp_path / "report" / "summary.json").read_text(encoding="utf-8"))
    assert found["model"] == "demo"
    assert list(found["behaviors"]) == ["safety", "truthfulness"]
    for outcome in outcomes:
        each = found["behaviors"][outcome.behavior.name]
        base, edit, _, steering = outcome.points
        for what in ("attribute", "utility"):
            values = [getattr(m, what).value for m in (base, edit, steering)]
            assert [each[what]["base"], each[what]["edit"], each[what]["steering"]] == [*values[:2], [[0.5, values[2]]]]
        assert each["attribute"]["name"] == outcome.behavior.attribute.name
        assert set(each["edit"]) >= {"rho_attn", "rho_mlp", "alpha", "heads", "neurons"}
        assert each["edit"]["neurons"] == outcome.edit.count("mlp")
        table = pd.read_csv(tmp_path / "report" / outcome.behavior.name / "validation.csv")
        assert len(table) == len(outcome.choice.trials)
        assert table["taken"].sum() == 1
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert 'href="safety/report.html"' in page
    page = (tmp_path / "report" / "safety" / "report.html").read_text(encoding="utf-8")
    assert "were chosen on the validation questions" in page
    assert all(task in page for task in outcomes[0].points[0].items.tasks)
    assert "at the edit's utility" in page
    assert "System prompt" in page


@pytest.mark.parametrize("template", ["no system role", "silent about system", "with system"])
def test_the_behaviours_can_be_pointed_at_another_model(tmp_path: Path, template: str) -> None:
    """A tiny random model with its own vocabulary and a chat template that knows no system turn, or passes over it."""
    from transformers import AutoModelForCausalLM

    tokenizer = train_tokenizer([users_words(each) for each in load_behavior("safety").train], vocabulary=500)
    turn = "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% elif m['role'] == 'assistant' %}{{ m['content'] }}"
    turn += "{% endif %}"
    system = {
        "no system role": "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
        "silent about system": "",
        "with system": "{% if m['role'] == 'system' %}<<SYS>>{{ m['content'] }}<</SYS>>{% endif %}",
    }[template]
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}" + system + turn + "{% endfor %}"
    settings = config("llama")
    settings.vocab_size = len(tokenizer)
    settings.max_position_embeddings = 512
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    for name in shipped_behaviors():
        behavior = load_behavior(name)
        (example, *_) = tokenize_examples(model, behavior.train[:1])
        text = model.text.tokenizer.decode(example.input_ids)
        assert behavior.train[0].prompt[0]["content"] in text
        assert "[INST]" in text
        few = dataclasses.replace(some(behavior, 4), train=behavior.train[:12], utility=some(behavior, 4).utility[:2], also=())
        few = dataclasses.replace(few, validation=())
        outcome = run(model, few, strengths=(1.0,))
        assert [each.setting.method for each in outcome.points] == ["base", "edit", "edit", "steering"]
        assert all(np.isfinite(each.attribute.value) for each in outcome.points)
