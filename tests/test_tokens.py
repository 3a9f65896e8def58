import copy
import dataclasses
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from s2e_lens.behaviors import Example, TokenizedExample, read_examples, tokenize_examples
from s2e_lens.behaviors.examples import AnyExample
from s2e_lens.behaviors.tokens import hash_examples
from s2e_lens.errors import ExamplesError, ModelError
from s2e_lens.models import LensModel
from s2e_lens.models.text import TextCodec
from tests.tiny import STORIES, needs_stories, tiny_model

WORDS = ("once", "upon", "a", "time", "there", "was", "little", "cat", "happy", "sad", "and", "it", "sang", "user", "assistant")
CHAT = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
CHAT_WITH_BOS = "{{ bos_token }} " + CHAT
CHAT_WITH_NEWLINE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)
REFUSING_CHAT = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('the user must begin') }}{% endif %}" + CHAT
MESSAGES = ({"role": "user", "content": "once upon"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "time"})

words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8)


def _post_processor(kind: str) -> Any:
    parts = {"bos": "<s> $A", "bos and eos": "<s> $A </s>", "none": "$A"}[kind]
    return processors.TemplateProcessing(single=parts, special_tokens=[("<s>", 0), ("</s>", 1)])


def _fast(backend: Tokenizer, template: str | None) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


def word_level(added: str = "bos", template: str | None = None) -> PreTrainedTokenizerFast:
    """One token a word: ids 0 and 1 are <s> and </s>, 2 is <unk>."""
    vocabulary = {word: i for i, word in enumerate(("<s>", "</s>", "<unk>", *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = _post_processor(added)
    return _fast(backend, template)


@cache
def _trained_bytes() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    backend.train_from_iterator([f"{a}  {b}\n    {a} {b}" for a in WORDS for b in WORDS], trainer)
    return backend.to_str()


def byte_level(added: str = "bos", template: str | None = None, *, trim_offsets: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges learned from the words: no text is unknown, a letter may take several tokens."""
    backend = Tokenizer.from_str(_trained_bytes())
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=trim_offsets), _post_processor(added)])
    return _fast(backend, template)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A Llama-2 kind: spaces become ▁, one is put in front of the text, unknown letters fall back to bytes."""
    return PreTrainedTokenizerFast.from_pretrained(STORIES)


KINDS = [
    pytest.param(word_level, id="word level"),
    pytest.param(byte_level, id="byte level"),
    pytest.param(sentencepiece_like, id="sentencepiece", marks=needs_stories),
]


@cache
def _codec_of(make: Any, *known: Any) -> TextCodec:
    return TextCodec(make(*known))


@cache
def _tiny() -> LensModel:
    return tiny_model()


def model_with(tokenizer: Any, **shapes: int) -> LensModel:
    """A model that reads with this tokenizer, and whose sizes are said to be these."""
    model = copy.copy(_tiny())
    model.text = TextCodec(tokenizer)
    model.shapes = dataclasses.replace(model.shapes, **{"d_vocab": 1000, **shapes})
    return model


def tokenized(model: LensModel, example: AnyExample, *, truncate: bool = False) -> TokenizedExample:
    (found,) = tokenize_examples(model, [example], truncate=truncate)
    return found


def refusal(model: LensModel, *examples: AnyExample, truncate: bool = False) -> str:
    with pytest.raises(ExamplesError) as caught:
        tokenize_examples(model, examples, truncate=truncate)
    return str(caught.value)


def text_of(codec: TextCodec, ids: Sequence[int]) -> str:
    """The text of tokens that stand behind others: a decoder may drop the space in front of the first token."""
    return codec.tokenizer.decode(list(ids))


# the span of a response


@pytest.mark.parametrize("make", KINDS)
@given(prompt=words, response=words)
def test_prompt_and_span_are_the_tokens_of_the_prompt_and_the_text_of_the_response(
    make: Any, prompt: list[str], response: list[str]
):
    codec = _codec_of(make)
    head, tail = " ".join(prompt), " " + " ".join(response)
    ids, start = codec.example_ids(head, tail)
    assert ids == codec.tokenizer(head + tail)["input_ids"], "the very tokens of the text as a whole, BOS included"
    assert ids[:start] == codec.prompt_ids(head) == codec.tokenizer(head)["input_ids"]
    assert text_of(codec, ids[start:]).split() == response
    assert codec.decode(ids[1:start]).split() == prompt


@given(prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=8), response=words)
def test_a_byte_level_span_holds_the_response_to_the_byte(prompt: str, response: list[str]):
    codec = _codec_of(byte_level)
    tail = "\n" + " ".join(response) + " é🙂"
    try:
        ids, start = codec.example_ids(prompt, tail)
    except ExamplesError as error:
        assert prompt[-1:].isspace(), "only a prompt that ends in white space can share a token with a line break"
        assert "share the token" in str(error)  # noqa: PT017
        return
    assert text_of(codec, ids[start:]) == tail
    assert ids[:start] == codec.prompt_ids(prompt)


def test_words_have_the_ids_and_the_border_that_a_reader_counts():
    ids, start = TextCodec(word_level()).example_ids("once upon a", " time there")
    assert (ids, start) == ([0, 3, 4, 5, 6, 7], 4)
    ids, start = TextCodec(word_level("none")).example_ids("once upon a", " time there")
    assert (ids, start) == ([3, 4, 5, 6, 7], 3)


@pytest.mark.parametrize("prompt", ["cat", "cat 🙂", "é"])
@pytest.mark.parametrize("response", ["🙂", "\n\n sad", "   sad", "é", "!\n"])
def test_a_letter_of_several_tokens_stays_on_its_side_of_the_border(prompt: str, response: str):
    codec = TextCodec(byte_level())
    ids, start = codec.example_ids(prompt, response)
    assert (text_of(codec, ids[1:start]), text_of(codec, ids[start:])) == (prompt, response)


@needs_stories
@pytest.mark.parametrize(
    ("prompt", "response"), [("Hi", " 🙂"), ("Hi\n", "There"), ("", "Xylophone"), ("", "Once"), (" Hi", " x")]
)
def test_pieces_and_byte_fallbacks_stay_on_their_side_of_the_border(prompt: str, response: str):
    codec = TextCodec(sentencepiece_like())
    ids, start = codec.example_ids(prompt, response)
    assert ids[:start] == codec.prompt_ids(prompt)
    assert (text_of(codec, ids[1:start]), text_of(codec, ids[start:])) == (prompt, response.removeprefix(" "))


@pytest.mark.parametrize("response", ["   sad", " 🙂"])
def test_trimmed_offsets_do_not_hide_a_token_of_spaces(response: str):
    codec = TextCodec(byte_level(trim_offsets=True))  # as GPT-NeoX, Pythia and RoBERTa have it
    ids, start = codec.example_ids("cat", response)
    assert text_of(codec, ids[start:]) == response


@pytest.mark.parametrize("trim_offsets", [False, True])
def test_trimmed_offsets_do_not_move_the_border_in_front_of_a_word(trim_offsets: bool):
    codec = TextCodec(byte_level(trim_offsets=trim_offsets))
    ids, start = codec.example_ids("the cat", " sang and")
    assert text_of(codec, ids[start:]) == " sang and"


@pytest.mark.parametrize(
    ("make", "prompt", "response", "shared"),
    [
        pytest.param(word_level, "once up", "on a time", "upon", id="within a word"),
        pytest.param(byte_level, "the cat ", "sad", " sad", id="a prompt that ends in a space"),
        pytest.param(byte_level, "the ha", "ppy cat", " happy", id="within a byte-level word"),
        pytest.param(sentencepiece_like, "Once upon ", "a time", " a", id="sentencepiece", marks=needs_stories),
    ],
)
def test_a_token_across_the_border_is_an_error_that_names_its_text(make: Any, prompt: str, response: str, shared: str):
    message = refusal(model_with(make()), Example("positive", prompt, response, 7))
    assert "line 7: the end of the prompt and the beginning of the response share the token" in message
    assert repr(shared) in message


@pytest.mark.parametrize("make", [word_level, byte_level])
def test_a_border_between_words_is_no_error(make: Any):
    assert tokenized(model_with(make()), Example("positive", "once upon", " a time")).start == 3


@pytest.mark.parametrize("response", [" ", "\n\t "])
def test_a_response_without_a_token_is_an_error(response: str):
    message = refusal(model_with(word_level()), Example("positive", "once", response, 2))
    assert f"line 2: the response {response!r} has no token: its span is empty" in message


def test_an_empty_prompt_needs_a_token_that_the_tokenizer_puts_in_front():
    example = Example("positive", "", "once upon")
    assert tokenized(model_with(word_level("bos")), example) == TokenizedExample("positive", (0, 3, 4), 1)
    assert "example 1: the prompt has no token and the tokenizer adds none" in refusal(model_with(word_level("none")), example)


def test_a_slow_tokenizer_is_refused():
    class Slow:
        """A tokenizer of the old kind, which gives no offsets."""

        is_fast = False
        chat_template = None
        bos_token = None

    with pytest.raises(ModelError, match="fast tokenizer"):
        TextCodec(Slow()).example_ids("once", " upon")
    with pytest.raises(ModelError, match="fast tokenizer"):
        tokenize_examples(model_with(Slow()), [Example("positive", "once", " upon")])


def test_text_that_no_tokenizer_takes_is_a_named_line(tmp_path: Path):
    lines = [{"label": label, "prompt": "once", "response": f" {label}"} for label in ("positive", "negative")]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, [*lines, {**lines[0], "response": " \ud83d"}])), encoding="utf-8")
    with pytest.raises(ExamplesError, match="line 3: "):
        tokenize_examples(model_with(byte_level()), read_examples(path))


# BOS


@pytest.mark.parametrize("make", [word_level, byte_level])
@pytest.mark.parametrize(("added", "prefix"), [("bos", [0]), ("bos and eos", [0]), ("none", [])])
def test_only_what_the_tokenizer_puts_in_front_is_added(make: Any, added: str, prefix: list[int]):
    codec = TextCodec(make(added))
    bare = codec.tokenizer("once upon", add_special_tokens=False)["input_ids"]
    assert codec.prefix_ids == prefix
    assert codec.prompt_ids("once upon") == codec.text_ids("once upon") == prefix + bare
    ids, start = codec.example_ids("once upon", " a")
    assert (ids[: len(prefix)], start) == (prefix, len(prefix) + len(bare))
    assert 1 not in ids, "no EOS, neither behind the prompt nor behind the response"


@pytest.mark.parametrize("make", KINDS)
def test_a_bos_that_is_written_in_the_text_is_not_doubled(make: Any):
    codec = TextCodec(make())
    bos = codec.tokenizer.bos_token_id
    for ids in (codec.prompt_ids("<s> once"), codec.text_ids("<s> once"), codec.example_ids("<s> once", " upon")[0]):
        assert ids.count(bos) == 1
        assert ids[0] == bos
    assert codec.prompt_ids("once <s>").count(bos) == 2, "one further on does not stand in for the first"


def test_without_a_bos_token_nothing_is_added_and_empty_text_is_no_bos():
    tokenizer = word_level("none")
    tokenizer.bos_token = None
    codec = TextCodec(tokenizer)
    assert (codec.prefix_ids, codec.prompt_ids("once"), codec.text_ids("")) == ([], [3], [])


# chat templates


@pytest.mark.parametrize("make", [word_level, byte_level])
@pytest.mark.parametrize(("template", "bos"), [(CHAT, 0), (CHAT_WITH_BOS, 1), (CHAT_WITH_NEWLINE, 1)])
def test_special_tokens_of_a_chat_are_the_templates_own(make: Any, template: str, bos: int):
    codec = TextCodec(make("bos", template))
    for prompt in ("once upon", MESSAGES):
        ids, start = codec.example_ids(prompt, " sang")
        assert codec.prompt_ids(prompt).count(0) == ids.count(0) == bos
        assert ids[:start] == codec.prompt_ids(prompt)
    assert codec.text_ids("once upon")[0] == 0, "running text knows no template"


@given(content=words, response=words)
def test_a_measured_answer_follows_the_tokens_it_is_generated_from(content: list[str], response: list[str]):
    for template, gap in ((CHAT, " "), (CHAT_WITH_BOS, " "), (CHAT_WITH_NEWLINE, "")):
        codec = _codec_of(byte_level, "bos", template)
        for prompt in (" ".join(content), ({"role": "user", "content": " ".join(content)},)):
            answer = gap + " ".join(response)
            ids, start = codec.example_ids(prompt, answer)
            assert ids[:start] == codec.prompt_ids(prompt)
            assert text_of(codec, ids[start:]) == answer
            rendered = codec.tokenizer.apply_chat_template(
                [{"role": "user", "content": " ".join(content)}], tokenize=False, add_generation_prompt=True
            )
            assert text_of(codec, ids) == rendered + answer, "nothing is stripped, the newline of the template least of all"


def test_a_template_that_ends_in_a_newline_keeps_it_in_front_of_the_span():
    codec = TextCodec(byte_level("bos", CHAT_WITH_NEWLINE))
    ids, start = codec.example_ids("once", "happy")
    assert text_of(codec, ids[:start]) == "<s>user\nonce</s>\nassistant\n"
    assert text_of(codec, ids[start - 1 : start]) == "\n"
    assert text_of(codec, ids[start:]) == "happy"


def test_messages_are_rendered_in_order_with_their_roles():
    codec = TextCodec(word_level("bos", CHAT))
    assert codec.render(MESSAGES) == "user once upon assistant a user time assistant"
    assert codec.render("once upon") == codec.render([{"role": "user", "content": "once upon"}]) == "user once upon assistant"


def test_a_template_that_is_turned_off_leaves_the_prompt_as_it_is():
    codec = TextCodec(word_level("bos", CHAT), use_chat_template=False)
    assert not codec.has_chat_template
    assert codec.render("once upon") == "once upon"
    assert codec.prompt_ids("once upon") == [0, 3, 4]


@pytest.mark.parametrize("turned_off", [False, True])
def test_messages_without_a_template_are_an_error(turned_off: bool):
    model = model_with(word_level("bos", CHAT if turned_off else None))
    model.text = dataclasses.replace(model.text, use_chat_template=not turned_off)
    message = refusal(model, Example("positive", MESSAGES, " sang", 3))
    assert "line 3: the prompt is a list of messages, but this tokenizer has no chat template" in message


def test_a_template_that_raises_is_an_error_with_its_words():
    model = model_with(word_level("bos", REFUSING_CHAT))
    other = Example("negative", ({"role": "assistant", "content": "cat"},), " sang", 5)
    message = refusal(model, other)
    assert "line 5: the model's chat template refuses the prompt: the user must begin" in message
    assert tokenized(model, Example("positive", MESSAGES, " sang")).start > 1


SILENT_CHAT = "{% for m in messages if m['role'] != 'system' %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
SYSTEM = ({"role": "system", "content": "cat"}, {"role": "user", "content": "once"})


def test_a_system_turn_is_said_in_it_where_the_template_has_one_and_else_at_the_head_of_the_users():
    for template in (REFUSING_CHAT, SILENT_CHAT):
        codec = TextCodec(word_level("bos", template))
        assert not codec.has_system_turn
        assert "cat\n\nonce" in codec.render(SYSTEM)
        assert codec.render(SYSTEM) == codec.render("cat\n\nonce")
        with pytest.raises(ExamplesError, match="no user turn follows"):
            codec.render(SYSTEM[:1])
    codec = TextCodec(word_level("bos", CHAT))
    assert codec.has_system_turn
    assert "cat\n\nonce" not in codec.render(SYSTEM)


def test_reasoning_that_the_template_opens_is_not_opened_again():
    opening = CHAT + "{% if add_generation_prompt %}<think>\n{% endif %}"
    for template, count in ((opening, 1), (CHAT, 1)):
        codec = TextCodec(byte_level("bos", template))
        ids, start = codec.example_ids("once", "<think>cat</think>dog")
        assert codec.tokenizer.decode(ids).count("<think>") == count
        assert codec.tokenizer.decode(ids[start:]).startswith("cat" if template == opening else "<think>cat")


def test_a_template_that_is_no_template_is_an_error():
    message = refusal(model_with(word_level("bos", "{% for m in messages %}")), Example("positive", "once", " upon", 1))
    assert "line 1: the model's chat template refuses the prompt" in message


# ids that end an answer


def test_an_answer_ends_at_the_tokenizers_and_the_models_own_ends():
    assert TextCodec(word_level()).eos_ids == (1,)
    assert TextCodec(word_level(), generation_eos=(9, 1, 7)).eos_ids == (1, 7, 9)


def test_padding_is_the_pad_token_else_an_end():
    tokenizer = word_level()
    assert TextCodec(tokenizer).pad_id == 1
    tokenizer.pad_token = "<unk>"
    assert TextCodec(tokenizer).pad_id == 2


def test_decoded_text_has_no_special_tokens():
    codec = TextCodec(byte_level())
    assert codec.decode([0, *codec.tokenizer("once upon", add_special_tokens=False)["input_ids"], 1]) == "once upon"


# what fits the model


def test_text_and_tokens_of_the_same_example_give_the_same():
    model = model_with(word_level())
    as_tokens = TokenizedExample("negative", (0, 3, 4, 5, 6), 3, 9)
    found = tokenize_examples(model, [Example("negative", "once upon", " a time", 9), as_tokens])
    assert found == [as_tokens, as_tokens]


def test_ids_outside_the_vocabulary_are_named():
    model = model_with(word_level(), d_vocab=6)
    assert tokenized(model, TokenizedExample("positive", (0, 5), 1)).input_ids == (0, 5)
    message = refusal(model, TokenizedExample("positive", (0, 6, 5, 99), 1, 8))
    assert "line 8: token ids [6, 99] are outside the model's vocabulary of 6" in message
    assert "token ids [6, 7] are outside" in refusal(model, Example("positive", "once", " time there", 8))


def test_an_example_longer_than_the_context_is_named_unless_truncation_is_asked_for():
    model = model_with(word_level(), n_ctx=5)
    fits, long = Example("positive", "once upon", " a time", 1), Example("negative", "once upon", " a time there", 2)
    assert len(tokenized(model, fits).input_ids) == 5
    message = refusal(model, fits, long)
    assert "1 bad example:" in message
    assert "line 2: 6 tokens do not fit the context of 5" in message
    assert tokenized(model, long, truncate=True) == TokenizedExample("negative", (0, 4, 5, 6, 7), 2, 2, cut=1)


@given(start=st.integers(1, 12), response=st.integers(1, 12), n_ctx=st.integers(3, 12))
def test_a_truncated_example_fits_and_keeps_bos_the_last_prompt_token_and_a_response(start: int, response: int, n_ctx: int):
    ids = tuple(range(100, 100 + start + response))
    found = tokenized(model_with(word_level(), n_ctx=n_ctx), TokenizedExample("positive", ids, start, 3), truncate=True)
    assert len(found.input_ids) == min(len(ids), n_ctx)
    prompt, span = found.input_ids[: found.start], found.input_ids[found.start :]
    assert (prompt[0], prompt[-1]) == (ids[0], ids[start - 1])
    assert span
    assert span == ids[start : start + len(span)], "the response loses tokens at its end only"
    assert len(span) == response or len(prompt) <= 2, "and only when the prompt has nothing left to give"
    assert prompt[1:] == ids[start - len(prompt) + 1 : start], "the prompt loses tokens behind its first one"
    assert (found.label, found.line) == ("positive", 3)


@pytest.mark.parametrize(("n_ctx", "start"), [(1, 1), (1, 3), (2, 2), (2, 5)])
def test_a_context_without_room_for_a_response_is_an_error_also_with_truncation(n_ctx: int, start: int):
    example = TokenizedExample("positive", tuple(range(8)), start, 6)
    message = refusal(model_with(word_level(), n_ctx=n_ctx), example, truncate=True)
    assert f"line 6: a context of {n_ctx} has no room for a response token" in message


def test_all_examples_that_do_not_fit_are_named_in_one_error():
    model = model_with(word_level(), n_ctx=4)
    good = Example("positive", "once", " upon", 1)
    empty, without_template = Example("negative", "once", " ", 2), Example("negative", MESSAGES, " a", 3)
    message = refusal(model, good, empty, without_template, TokenizedExample("positive", (0,) * 5, 1, 4))
    assert "examples: 3 bad examples:" in message
    assert [line.strip().partition(":")[0] for line in message.splitlines()[1:]] == ["line 2", "line 3", "line 4"]


def test_examples_without_a_line_are_counted_from_one():
    good, bad = Example("positive", "once", " upon"), Example("negative", "once", " ")
    assert "example 2: the response" in refusal(model_with(word_level()), good, bad)


# the hash of a data set

ONE = TokenizedExample("positive", (0, 12, 3), 2, 1)


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(ONE, label="negative"),
        dataclasses.replace(ONE, start=1),
        dataclasses.replace(ONE, input_ids=(0, 1, 23)),
        dataclasses.replace(ONE, input_ids=(0, 12, 3, 3)),
    ],
    ids=["label", "start", "ids", "length"],
)
def test_the_hash_of_examples_tells_what_is_measured_apart(other: TokenizedExample):
    assert hash_examples([ONE]) != hash_examples([other])
    assert hash_examples([ONE, other]) != hash_examples([other, ONE])
    assert hash_examples([ONE]) == hash_examples([dataclasses.replace(ONE, line=77)]), "a line is where it stands, not what it is"
