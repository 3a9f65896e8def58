import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2e_lens.behaviors import Behavior, Example, TokenizedExample, load_behavior, read_examples, split_examples
from s2e_lens.behaviors.behavior import Metric, read_neutral
from s2e_lens.behaviors.examples import AnyExample, parse_example
from s2e_lens.errors import ExamplesError

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
MARGIN = Metric("margin of this test", lambda model, examples: [0.0])
NOT_A_METRIC = "a string"


def text(label: str = "positive", prompt: Any = "Say it.", response: Any = "Gladly.", **others: Any) -> dict[str, Any]:
    return {"label": label, "prompt": prompt, "response": response, **others}


def tokens(input_ids: Any, start: Any, label: str = "positive") -> dict[str, Any]:
    return {"label": label, "input_ids": input_ids, "start": start}


def write_lines(path: Path, lines: Sequence[bytes | str | dict[str, Any]]) -> Path:
    """A JSONL file; bytes go in as they are."""
    encoded = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in encoded))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ExamplesError) as caught:
        read_examples(path)
    return str(caught.value)


def pairs(prompts: Sequence[str], *, first_line: int = 1) -> list[AnyExample]:
    """A positive and a negative example of each prompt."""
    return [
        Example(label, prompt, f"{label} answer", first_line + 2 * i + j)
        for i, prompt in enumerate(prompts)
        for j, label in enumerate(("positive", "negative"))
    ]


# reading


def test_every_form_of_example_is_read_with_its_line(tmp_path: Path):
    lines = [text(), "", text("negative", MESSAGES, "No."), "   ", tokens([5, 6, 7], 2, "negative")]
    assert read_examples(write_lines(tmp_path / "x.jsonl", lines)) == [
        Example("positive", "Say it.", "Gladly.", 1),
        Example("negative", ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}), "No.", 3),
        TokenizedExample("negative", (5, 6, 7), 2, 5),
    ]


def test_other_keys_are_left_out(tmp_path: Path):
    noted = [{**MESSAGES[1], "name": "x"}]
    (example, _) = read_examples(write_lines(tmp_path / "x.jsonl", [text(prompt=noted, id=7), text("negative")]))
    assert example == Example("positive", ({"role": "user", "content": "Hello?"},), "Gladly.", 1)


def test_windows_line_ends_and_letters_outside_ascii_are_read(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(f'{{"label": "positive", "prompt": "né", "response": "🙂"}}\r\n{json.dumps(text("negative"))}\r\n'.encode())
    assert read_examples(path) == [Example("positive", "né", "🙂", 1), Example("negative", "Say it.", "Gladly.", 2)]


BAD: dict[str, tuple[Any, str]] = {
    "not JSON": ("{label: positive}", "not JSON"),
    "cut in the middle": ('{"label": "positive", "prom', "not JSON"),
    "not UTF-8": (b'{"label": "positive", "prompt": "\xff", "response": "x"}', "not UTF-8 (invalid start byte at byte 33)"),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(text()).encode(), "BOM"),
    "a list": ("[1, 2]", "a JSON object was expected, got list"),
    "no label": ('{"prompt": "x", "response": "y"}', "label must be 'positive' or 'negative', got None"),
    "an unknown label": (text("neutral"), "label must be 'positive' or 'negative', got 'neutral'"),
    "a label in capitals": (text("Positive"), "got 'Positive'"),
    "no prompt": ('{"label": "positive", "response": "y"}', "no prompt; its keys are 'label', 'response'"),
    "a number as prompt": (text(prompt=3), "prompt must be a string or a list of messages, got int"),
    "no message": (text(prompt=[]), "empty list of messages"),
    "a message that is a string": (text(prompt=["hello"]), "a message must be {'role': str, 'content': str}, got 'hello'"),
    "a message without content": (text(prompt=[{"role": "user"}]), "a message must be"),
    "a message whose content is a list": (text(prompt=[{"role": "user", "content": ["x"]}]), "a message must be"),
    "no response": ('{"label": "positive", "prompt": "x"}', "no response; its keys are 'label', 'prompt'"),
    "an empty response": (text(response=""), "the response is empty"),
    "an empty span": (tokens([1, 2], 2), "start is 2 and there are 2 tokens: the response span is empty"),
    "a span behind the end": (tokens([1, 2], 7), "the response span is empty"),
    "a start of 0": (tokens([1, 2], 0), "start is 0: at least one token must come before"),
    "a negative start": (tokens([1, 2], -1), "start is -1: at least one token must come before"),
    "no start": ('{"label": "positive", "input_ids": [1, 2]}', "start must be the index of the first response token, got None"),
    "a boolean start": (tokens([1, 2], True), "start must be the index of the first response token, got True"),
    "a start with a point": (tokens([1, 2], 1.0), "start must be the index of the first response token, got 1.0"),
    "no ids": (tokens([], 1), "input_ids must be a list of token ids"),
    "a negative id": (tokens([1, -2], 1), "input_ids must be a list of token ids"),
    "a boolean id": (tokens([1, True], 1), "input_ids must be a list of token ids"),
    "an id with a point": (tokens([1, 2.0], 1), "input_ids must be a list of token ids"),
    "ids in a string": (tokens("12", 1), "input_ids must be a list of token ids"),
}


@pytest.mark.parametrize(("line", "what"), BAD.values(), ids=BAD.keys())
def test_a_bad_line_is_named_with_its_number_and_what_is_wrong(tmp_path: Path, line: Any, what: str):
    path = write_lines(tmp_path / "x.jsonl", [text(), text("negative"), line])
    message = refusal(path)
    assert message.startswith(f"{path}: 1 bad example:")
    assert "line 3: " in message
    assert what in message.partition("line 3: ")[2]


def test_the_first_line_may_be_the_bad_one_and_empty_lines_count(tmp_path: Path):
    assert "line 1: not JSON" in refusal(write_lines(tmp_path / "x.jsonl", ["oops", text(), text("negative")]))
    assert "line 4: not JSON" in refusal(write_lines(tmp_path / "x.jsonl", ["", text(), "", "oops", text("negative")]))


@pytest.mark.parametrize("line", ["[" * 100_000, '{"start": ' + "1" * 5000 + "}"], ids=["too deep", "a number too long"])
def test_json_that_python_refuses_for_its_size_is_a_named_line_too(tmp_path: Path, line: str):
    assert "line 3: " in refusal(write_lines(tmp_path / "x.jsonl", [text(), text("negative"), line]))


def test_all_bad_lines_are_named_in_one_error(tmp_path: Path):
    message = refusal(write_lines(tmp_path / "x.jsonl", ["oops", text(), text("happy"), text("negative"), text(response="")]))
    assert "3 bad examples:" in message
    assert [line.strip().partition(":")[0] for line in message.splitlines()[1:]] == ["line 1", "line 3", "line 5"]


@pytest.mark.parametrize(("count", "tail"), [(10, None), (11, "… and 1 more"), (37, "… and 27 more")])
def test_of_many_bad_lines_the_first_ten_are_named_and_the_rest_counted(tmp_path: Path, count: int, tail: str | None):
    message = refusal(write_lines(tmp_path / "x.jsonl", [text(), text("negative")] + ["oops"] * count))
    named = [line.strip() for line in message.splitlines()[1:]]
    assert f"{count} bad examples:" in message
    assert [line.partition(":")[0] for line in named[:10]] == [f"line {number}" for number in range(3, 13)]
    assert named[10:] == ([tail] if tail else [])


@pytest.mark.parametrize("content", [b"", b"\n\n  \n"], ids=["no byte", "empty lines"])
def test_an_empty_file_lacks_both_classes(tmp_path: Path, content: bytes):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert f"{path}: no positive and no negative examples among 0" in refusal(path)


@pytest.mark.parametrize(("there", "missing"), [("positive", "negative"), ("negative", "positive")])
def test_a_missing_class_is_named(tmp_path: Path, there: str, missing: str):
    message = refusal(write_lines(tmp_path / "x.jsonl", [text(there), text(there, response="Again.")]))
    assert f"no {missing} examples among 2" in message
    assert f"no {there}" not in message


@pytest.mark.parametrize("name", ["missing.jsonl", "."], ids=["missing", "a directory"])
def test_a_file_that_cannot_be_opened_is_a_clear_error(tmp_path: Path, name: str):
    assert refusal(tmp_path / name).startswith(f"cannot read {tmp_path / name}: ")


@pytest.mark.parametrize(
    "one", [text(prompt="p"), text(prompt=MESSAGES), tokens([4, 5, 6], 1)], ids=["text", "messages", "tokens"]
)
def test_the_same_example_in_both_classes_is_refused(tmp_path: Path, one: dict[str, Any]):
    message = refusal(write_lines(tmp_path / "x.jsonl", [text(), one, text("negative", "Else."), {**one, "label": "negative"}]))
    assert "1 bad example:" in message
    assert "line 4: the same example is positive in line 2 and negative here" in message


@pytest.mark.parametrize(
    "other",
    [text("negative", response="Gladly!"), text("negative", prompt="Say it!"), text("positive")],
    ids=["another response", "another prompt", "the same class"],
)
def test_examples_that_only_resemble_each_other_are_no_contradiction(tmp_path: Path, other: dict[str, Any]):
    assert len(read_examples(write_lines(tmp_path / "x.jsonl", [text(), other, text("negative", "Else.")]))) == 3


def test_spans_of_the_same_tokens_are_no_contradiction_when_they_differ(tmp_path: Path):
    lines = [tokens([4, 5, 6], 1), tokens([4, 5, 6], 2, "negative")]
    assert read_examples(write_lines(tmp_path / "x.jsonl", lines)) == [
        TokenizedExample("positive", (4, 5, 6), 1, 1),
        TokenizedExample("negative", (4, 5, 6), 2, 2),
    ]


def test_a_parsed_record_without_a_file_has_line_0():
    assert parse_example(text()).line == 0
    with pytest.raises(ExamplesError, match="^the response is empty"):
        parse_example(text(response=""))


@given(
    label=st.sampled_from(["positive", "negative"]),
    prompt=st.text() | st.lists(st.fixed_dictionaries({"role": st.text(), "content": st.text()}), min_size=1, max_size=3),
    response=st.text(min_size=1),
)
def test_what_is_read_is_what_was_written(label: str, prompt: Any, response: str):
    found = parse_example(json.loads(json.dumps(text(label, prompt, response))), line=9)
    assert isinstance(found, Example)
    kept = prompt if isinstance(prompt, str) else list(found.prompt)
    assert (found.label, kept, found.response, found.line) == (label, prompt, response, 9)
    assert isinstance(found.prompt, str) == isinstance(prompt, str)


@given(ids=st.lists(st.integers(0, 10**6), max_size=6), start=st.integers(-2, 8))
def test_tokens_are_accepted_exactly_when_both_sides_of_the_border_have_one(ids: list[int], start: int):
    if ids[:start] and ids[start:] and start > 0:
        assert parse_example(tokens(ids, start)) == TokenizedExample("positive", tuple(ids), start)
    else:
        with pytest.raises(ExamplesError):
            parse_example(tokens(ids, start))


# splitting


@st.composite
def prompts_in_any_order(draw: st.DrawFn) -> list[str]:
    """At least four prompts, some of them several times."""
    prompts = [f"prompt {i}" for i in range(draw(st.integers(4, 12)))]
    return draw(st.permutations([*prompts, *draw(st.lists(st.sampled_from(prompts), max_size=8))]))


@given(prompts=prompts_in_any_order(), seed=st.integers(0, 2**32), fraction=st.floats(0.05, 0.7))
def test_a_split_is_a_partition_by_prompt_that_keeps_the_order(prompts: list[str], seed: int, fraction: float):
    kept, held = split_examples(pairs(prompts), fraction=fraction, seed=seed)
    lines = [[example.line for example in side] for side in (kept, held)]
    assert all(side == sorted(side) for side in lines)
    assert sorted(lines[0] + lines[1]) == list(range(1, 2 * len(prompts) + 1))
    aside = {example.key for example in held}
    assert not aside & {example.key for example in kept}
    assert len(aside) == 1 or abs(len(aside) - fraction * len(set(prompts))) <= 0.5


def test_a_quarter_of_the_prompts_is_set_aside_and_the_seed_decides_which():
    examples = pairs([f"prompt {i}" for i in range(40)])
    held = [[each.line for each in split_examples(examples, seed=seed)[1]] for seed in (0, 0, 1)]
    assert len(held[0]) == 20
    assert held[0] == held[1]
    assert held[0] != held[2]
    assert held[0] != list(range(1, 21)), "chosen by chance, not the first ones"


def test_tokenised_examples_with_the_same_prompt_tokens_stay_together():
    made: list[AnyExample] = [
        TokenizedExample(label, (1, 10 + i, *range(20, 21 + j)), 2)
        for i in range(8)
        for j, label in enumerate(("positive", "negative"))
    ]
    kept, held = split_examples(made)
    assert (len(kept), len(held)) == (12, 4)
    assert not {each.key for each in kept} & {each.key for each in held}


def test_a_split_that_would_leave_a_side_without_a_class_is_refused():
    with pytest.raises(ExamplesError, match="needs at least 2 different prompts; there is 1"):
        split_examples(pairs(["the only prompt"]))
    alone: list[AnyExample] = [Example(label, f"{label} {i}", "x") for i in range(2) for label in ("positive", "negative")]
    with pytest.raises(ExamplesError, match=r"the held-out split \(25%\): no (positive|negative) examples among 1"):
        split_examples(alone)
    assert [len(side) for side in split_examples(pairs(["one", "two"]))] == [2, 2]


# behaviours


def test_a_behavior_refuses_a_prompt_that_is_in_training_and_in_another_split():
    train, other = pairs(["a", "b"]), pairs(["c", "b"], first_line=11)
    with pytest.raises(ExamplesError, match=r"kind: 2 test examples share their prompt .* \(the first is line 13\)"):
        Behavior("kind", train=train, test=other)
    with pytest.raises(ExamplesError, match="kind: 2 validation examples share their prompt"):
        Behavior("kind", train=train, test=pairs(["d"]), validation=other)
    assert Behavior("kind", train=train, test=pairs(["d"]), validation=pairs(["c"])).name == "kind"


def test_a_behavior_refuses_a_prompt_that_settings_are_chosen_and_reported_on():
    with pytest.raises(ExamplesError):
        Behavior("kind", train=pairs(["a"]), validation=pairs(["b"]), test=pairs(["b"]))


def test_a_prompt_written_as_text_and_as_a_user_message_is_the_same_prompt():
    as_message = Example("positive", ({"role": "user", "content": "a"},), "x")
    with pytest.raises(ExamplesError):
        Behavior("kind", train=pairs(["a"]), test=[as_message])


def test_a_behavior_needs_both_classes_to_train_on():
    with pytest.raises(ExamplesError, match="kind: train: no negative examples among 1"):
        Behavior("kind", train=pairs(["a"])[:1], test=pairs(["b"]))


def test_a_behavior_from_one_list_sets_a_quarter_of_the_prompts_aside():
    examples = pairs([f"prompt {i}" for i in range(8)])
    behavior = Behavior.from_examples("kind", examples, seed=3, neutral=("Grass is green.",))
    assert (behavior.train, behavior.test) == split_examples(examples, seed=3)
    assert (len(behavior.train), len(behavior.test), behavior.neutral) == (12, 4, ("Grass is green.",))


def write_behavior(folder: Path, toml: str) -> Path:
    """A TOML file in a folder of its own, beside data that it can name."""
    (folder / "data").mkdir(parents=True)
    for name, prompts in {"all": "abcdefgh", "train": "abcd", "validation": "ef", "test": "gh"}.items():
        lines = [{"label": e.label, "prompt": e.prompt, "response": e.response} for e in pairs(prompts) if isinstance(e, Example)]
        write_lines(folder / "data" / f"{name}.jsonl", lines)
    (folder / "neutral.txt").write_text("Grass is green.\n\n  Snow is white. \n", encoding="utf-8")
    path = folder / "kind.toml"
    path.write_text(toml, encoding="utf-8")
    return path


def prompts_of(examples: Sequence[AnyExample]) -> str:
    return "".join(dict.fromkeys(e.prompt for e in examples if isinstance(e, Example) and isinstance(e.prompt, str)))


SPLITS = 'train = "data/train.jsonl"\nvalidation = "data/validation.jsonl"\ntest = "data/test.jsonl"\n'
ONE_FILE = 'examples = "data/all.jsonl"\n'


def test_paths_of_a_toml_file_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_behavior(tmp_path / "deep" / "down", 'name = "kindness"\nneutral = "neutral.txt"\n' + SPLITS)
    monkeypatch.chdir(tmp_path)
    found = load_behavior(path.relative_to(tmp_path))
    assert [prompts_of(each) for each in (found.train, found.validation, found.test)] == ["abcd", "ef", "gh"]
    assert (found.name, found.neutral) == ("kindness", ("Grass is green.", "Snow is white."))
    assert (found.attribute, found.also, found.utility) == (None, (), ())


def test_one_file_of_examples_is_split_by_the_seed_and_named_after_the_toml_file(tmp_path: Path):
    path = write_behavior(tmp_path / "x", ONE_FILE)
    found = [load_behavior(path, seed=seed) for seed in range(6)]
    assert all(sorted(prompts_of(each.train) + prompts_of(each.test)) == list("abcdefgh") for each in found)
    assert all(len(prompts_of(each.test)) == 2 for each in found)
    assert len({prompts_of(each.test) for each in found}) > 1
    assert (found[0].name, found[0].validation) == ("kind", ())


def test_metrics_are_found_by_their_import_name(tmp_path: Path):
    also = f'also = ["{__name__}:MARGIN", {{metric = "refusal_rate", max_new_tokens = 3}}]\n'
    found = load_behavior(write_behavior(tmp_path / "x", ONE_FILE + f'attribute = "{__name__}:MARGIN"\n' + also))
    assert found.attribute == found.also[0] == MARGIN
    assert found.also[1].name == "refusal rate"


def test_utility_tasks_are_tables_with_items_of_their_own(tmp_path: Path):
    task = '[[utility]]\nname = "copying"\nmetric = "exact_answer"\ntest = "data/test.jsonl"\nvalidation = "data/one.jsonl"\n'
    path = write_behavior(tmp_path / "x", ONE_FILE + task + task.replace("copying", "sorting"))
    write_lines(tmp_path / "x" / "data" / "one.jsonl", [{"label": "positive", "prompt": "z", "response": "z"}])
    found = load_behavior(path)
    assert [each.name for each in found.utility] == ["copying", "sorting"]
    assert (prompts_of(found.utility[0].test), prompts_of(found.utility[0].validation)) == ("gh", "z")
    assert found.utility[0].metric.name == "exact answer"


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ('utility = "exact_answer"', "must be a list of tables"),
        ("utility = [1]", "must be a list of tables"),
        ('[[utility]]\nname = "x"\ntest = "data/test.jsonl"', "lacks metric"),
        ('[[utility]]\nname = "x"\nmetric = "exact_answer"\ntset = "data/test.jsonl"', "unknown keys ['tset']"),
        ('[[utility]]\nname = "x"\nmetric = "reasoning_length"\ntest = "data/test.jsonl"', "higher must be better"),
        (
            '[[utility]]\nname = "x"\nmetric = {metric = "exact_answer", tokens = 3}\ntest = "data/test.jsonl"',
            "cannot be made with",
        ),
        ('[[utility]]\nname = "x"\nmetric = {max_new_tokens = 3}\ntest = "data/test.jsonl"', "must name a metric"),
        (
            '[[utility]]\nname = "x"\nmetric = "exact_answer"\ntest = "data/test.jsonl"\nvalidation = "data/test.jsonl"',
            "share their prompt",
        ),
    ],
)
def test_a_wrong_utility_task_is_a_clear_error(tmp_path: Path, task: str, what: str):
    path = write_behavior(tmp_path / "x", (task + "\n" + ONE_FILE) if task.startswith("utility") else ONE_FILE + task)
    with pytest.raises(ExamplesError) as caught:
        load_behavior(path)
    assert what in str(caught.value)


def test_two_tasks_of_one_name_are_refused(tmp_path: Path):
    task = '[[utility]]\nname = "x"\nmetric = "exact_answer"\ntest = "data/test.jsonl"\n'
    with pytest.raises(ExamplesError, match="one name"):
        load_behavior(write_behavior(tmp_path / "x", ONE_FILE + task + task))


@pytest.mark.parametrize("key", ["attribute"])
@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("no_such_module_here:x", "cannot be imported (No module named 'no_such_module_here')"),
        (f"{__name__}:MISSING", "cannot be imported"),
        (f"{__name__}", "'module:name'"),
        ("", "'module:name'"),
        (f"{__name__}:NOT_A_METRIC", "is a str, not an s2e_lens Metric"),
        (f"{__name__}:Metric", "cannot be made with"),
    ],
)
def test_a_metric_that_is_not_one_is_named(tmp_path: Path, key: str, target: str, what: str):
    path = write_behavior(tmp_path / "x", ONE_FILE + f'{key} = "{target}"\n')
    with pytest.raises(ExamplesError) as caught:
        load_behavior(path)
    assert f"{path}: {key} = {target!r}" in str(caught.value)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("toml", "what"),
    [
        ("name = ", "cannot read"),
        ('exmples = "x"\nnotes = "y"\n' + ONE_FILE, "unknown keys ['exmples', 'notes']"),
        ("", "either 'examples', or both 'train' and 'test'"),
        ('train = "data/train.jsonl"\n', "either 'examples', or both 'train' and 'test'"),
        ('examples = "data/none.jsonl"\n', "none.jsonl"),
        (ONE_FILE + 'neutral = "none.txt"\n', "none.txt"),
        ('train = "data/all.jsonl"\ntest = "data/test.jsonl"\n', "share their prompt"),
    ],
    ids=["not TOML", "unknown keys", "nothing", "no test split", "no such examples", "no such neutral text", "a shared prompt"],
)
def test_a_wrong_toml_file_is_a_clear_error(tmp_path: Path, toml: str, what: str):
    with pytest.raises(ExamplesError) as caught:
        load_behavior(write_behavior(tmp_path / "x", toml))
    assert what in str(caught.value)


def test_a_toml_file_that_is_missing_or_not_utf8_is_named(tmp_path: Path):
    path = tmp_path / "kind.toml"
    with pytest.raises(ExamplesError, match=r"cannot read .*kind\.toml"):
        load_behavior(path)
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(ExamplesError, match=r"cannot read .*kind\.toml"):
        load_behavior(path)


@pytest.mark.parametrize(
    "toml",
    [
        "examples = 5\n",
        ONE_FILE + "neutral = 5\n",
        ONE_FILE + "attribute = 5\n",
        ONE_FILE + "name = 5\n",
        ONE_FILE + 'attribute = ".x:y"',
    ],
    ids=["examples", "neutral", "attribute", "name", "a relative module"],
)
def test_a_value_of_the_wrong_type_is_a_clear_error(tmp_path: Path, toml: str):
    with pytest.raises(ExamplesError):
        load_behavior(write_behavior(tmp_path / "x", toml))


def test_a_toml_file_with_both_one_file_and_splits_is_refused(tmp_path: Path):
    with pytest.raises(ExamplesError):
        load_behavior(write_behavior(tmp_path / "x", ONE_FILE + SPLITS))


# neutral text


def test_eighty_neutral_passages_come_with_the_package():
    passages = read_neutral()
    assert len(passages) == len(set(passages)) == 80
    assert all(len(passage.split()) >= 5 for passage in passages)


def test_neutral_text_is_one_passage_a_line(tmp_path: Path):
    path = tmp_path / "neutral.txt"
    path.write_text("  Grass is green.\n\n\tSnow is white.  \n", encoding="utf-8")
    assert read_neutral(path) == ("Grass is green.", "Snow is white.")


@pytest.mark.parametrize(
    ("content", "what"), [(None, "cannot read neutral text"), (b"\xff", "cannot read neutral text"), (b" \n", "holds no text")]
)
def test_neutral_text_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, what: str):
    path = tmp_path / "neutral.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExamplesError, match=what) as caught:
        read_neutral(path)
    assert str(path) in str(caught.value)
