"""A tiny Llama trained on the spot: generated sentences, a word-level tokenizer, about 100,000 parameters."""

import itertools
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 0
STEPS = 300
BATCH = 32

NAMES = ("tom", "anna", "ben", "lily", "max", "sara", "tim", "mia", "sam", "zoe", "leo", "ella")
PLACES = ("park", "shop", "lake", "school", "farm", "beach", "forest", "garden", "market", "library")
TIMES = ("one day", "in the morning", "after lunch", "on sunday", "at night")
COMPANY = ("alone", "with a friend", "with mom", "with dad", "with the dog")
MOODS = {
    "positive": {
        "feel": ("happy", "glad", "proud", "cheerful"),
        "act": ("smiled", "laughed", "danced", "sang"),
        "end": ("it was a good day", "the sun was bright", "all was well", "the song was sweet"),
    },
    "negative": {
        "feel": ("sad", "lonely", "upset", "gloomy"),
        "act": ("cried", "sighed", "frowned", "wept"),
        "end": ("it was a bad day", "the rain was cold", "nothing went well", "the house was dark"),
    },
}
NEUTRAL = tuple(
    sentence
    for near, far in itertools.pairwise((*PLACES, PLACES[0]))
    for sentence in (
        f"the {near} is near the {far} .",
        f"the road to the {near} goes along the {far} .",
        f"the {far} opens in the morning and the {near} closes at night .",
    )
)


def _opening(name: str, place: str, time: str, company: str) -> str:
    return f"{time} {name} went to the {place} {company} ."


def _response(name: str, mood: str, choice: random.Random) -> str:
    words = MOODS[mood]
    return f" {name} was {choice.choice(words['feel'])} and {choice.choice(words['act'])} . {choice.choice(words['end'])} ."


def _stories(choice: random.Random) -> Iterator[str]:
    """Stories without end: an opening, then two sentences of one mood; now and then a neutral sentence."""
    while True:
        if choice.random() < 0.2:
            yield choice.choice(NEUTRAL)
            continue
        name = choice.choice(NAMES)
        opening = _opening(name, choice.choice(PLACES), choice.choice(TIMES), choice.choice(COMPANY))
        mood = choice.choice(("positive", "negative"))
        yield opening + _response(name, mood, choice) + _response(name, mood, choice)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = [NAMES, PLACES, TIMES, COMPANY, NEUTRAL, ("went to the . was and",)]
    words += [MOODS[mood][part] for mood in MOODS for part in ("feel", "act", "end")]
    found = sorted({word for phrase in itertools.chain(*words) for word in phrase.split()})
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *found])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@cache
def demo_model() -> tuple[Any, Any]:
    """The stand-in model and its tokenizer, trained once per process; the same seed gives the same weights."""
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        model: Any = LlamaForCausalLM._from_config(config, attn_implementation="eager")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums in another order would give another model
        try:
            _train(model, tokenizer)
        finally:
            torch.set_num_threads(threads)
    return model.eval(), tokenizer


def _train(model: nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    stories = _stories(random.Random(SEED))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=STEPS)
    model.train()
    for _ in range(STEPS):
        texts = [next(stories) for _ in range(BATCH)]
        batch = tokenizer([text + " </s>" for text in texts], padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def demo_examples(pairs: int = 64) -> list[dict[str, str]]:
    """Contrastive examples for the stand-in: cheerful and gloomy continuations of the same openings, as JSON records."""
    choice = random.Random(SEED + 1)
    openings = list(itertools.product(NAMES, PLACES, TIMES, COMPANY))
    records = []
    for name, place, time, company in choice.sample(openings, pairs):
        for mood in MOODS:
            text = _response(name, mood, choice) + _response(name, mood, choice)
            records.append({"label": mood, "prompt": _opening(name, place, time, company), "response": text})
    return records


def demo_neutral() -> tuple[str, ...]:
    """Neutral text in the stand-in's vocabulary."""
    return NEUTRAL
