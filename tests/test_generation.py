"""Generation: seeded per prompt, the same in any batch, and rows that leave when their answer ends."""

import numpy as np
import pytest
import torch

from s2e_lens.errors import ModelError
from s2e_lens.models import LensModel, base, generation, load_model, seeded
from s2e_lens.models.generation import Choose, uniforms, warpers
from tests.tiny import DENSE, VOCABULARY, tiny_hf, tiny_model, tiny_tokenizer

PROMPTS = [[1, 5, 6, 7, 8], [1, 9], [1, 40, 41], [1, 100, 50, 60, 70, 80, 90], [1, 30]]
SAMPLING = {"do_sample": True, "max_new_tokens": 20}


@pytest.fixture(scope="module")
def model() -> LensModel:
    return tiny_model()


def test_a_sampled_answer_is_the_same_in_any_batch_and_order(model: LensModel) -> None:
    together = model.generate(PROMPTS, **SAMPLING)
    alone = [model.generate([prompt], **SAMPLING)[0] for prompt in PROMPTS]
    backwards = model.generate(PROMPTS[::-1], **SAMPLING)[::-1]
    assert together == alone == backwards
    with seeded(1):
        assert model.generate(PROMPTS, **SAMPLING) != together
    assert model.generate(PROMPTS, max_new_tokens=20) != together  # greedy


def test_a_prompt_that_stands_thrice_gets_three_draws_which_can_be_had_one_by_one(model: LensModel) -> None:
    thrice = model.generate([PROMPTS[0]] * 3, **SAMPLING)
    assert len({tuple(each) for each in thrice}) == 3
    assert [model.generate([PROMPTS[0]], draws=[draw], **SAMPLING)[0] for draw in range(3)] == thrice


def test_random_numbers_of_the_process_neither_matter_nor_move(model: LensModel) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = model.generate(PROMPTS, **SAMPLING)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert model.generate(PROMPTS, **SAMPLING) == first


@pytest.mark.parametrize("family", DENSE)
def test_rows_that_leave_the_batch_change_no_answer(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the Hugging Face model's own generate, one prompt at a time."""
    model, plain = tiny_model(family), tiny_hf(family)
    ends = list(range(2, 60))  # ends come early and at different steps
    want = []
    for prompt in PROMPTS:
        with torch.no_grad():
            out = plain.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=ends, pad_token_id=0)
        tokens = out[0, len(prompt) :].tolist()
        want.append(next((tokens[:i] for i, token in enumerate(tokens) if token in ends), tokens))
    monkeypatch.setattr(generation, "STEPS", 3)
    widths: list[int] = []
    with model.intercept({("mlp", 0): lambda x, y: widths.append(len(y))}):
        hooked = model.generate(PROMPTS, max_new_tokens=24, eos_token_id=ends)
    assert hooked == want
    assert model.generate(PROMPTS, max_new_tokens=24, eos_token_id=ends) == want
    if len({len(each) for each in want}) > 2:
        assert min(widths) < len(PROMPTS), "rows have left"


def test_a_sampled_answer_is_the_same_though_others_leave_the_batch_earlier(
    model: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "STEPS", 2)
    ends = list(range(2, 40))
    together = model.generate(PROMPTS * 3, max_new_tokens=30, do_sample=True, eos_token_id=ends)
    alone = [
        model.generate([prompt], draws=[draw], max_new_tokens=30, do_sample=True, eos_token_id=ends)[0]
        for draw in range(3)
        for prompt in PROMPTS
    ]
    assert together == alone
    assert len({len(each) for each in together}) > 4, "they do end at different steps"


def test_a_row_that_has_ended_does_not_come_back(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "STEPS", 2)
    monkeypatch.setattr(generation, "SPARSE", 0.0)  # nobody leaves: the batch stops when all have ended
    passes: list[int] = []
    ends = list(range(2, 60))
    lengths = [len(each) for each in model.generate(PROMPTS, max_new_tokens=60, eos_token_id=ends)]
    with model.intercept({("mlp", 0): lambda x, y: passes.append(y.shape[1])}):
        model.generate(PROMPTS, max_new_tokens=60, eos_token_id=ends)
    assert len(passes) <= max(lengths) + 2 < 60


def test_functions_that_intercept_know_which_prompts_the_rows_are(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "STEPS", 2)
    monkeypatch.setattr(base, "MAX_ROWS", 3)
    seen: dict[int, int] = {}

    def look(x: torch.Tensor, y: torch.Tensor) -> None:
        assert len(model.batch.rows) == len(y)
        if y.shape[1] > 1:  # prefill: the padded width tells the batch
            seen.update({int(row): y.shape[1] for row in model.batch.rows})

    with model.intercept({("mlp", 0): look}):
        model.generate(PROMPTS, max_new_tokens=6, eos_token_id=list(range(2, 60)))
    assert seen == {3: 7, 0: 7, 2: 7, 1: 2, 4: 2}, "longest first, three at a time"
    assert model.batch is None


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.7, "top_k": 0},
        {"top_k": 5},
        {"top_p": 0.6, "top_k": 0},
        {"min_p": 0.02, "top_k": 0, "temperature": 1.5},
        {"typical_p": 0.5, "top_k": 0},
        {"epsilon_cutoff": 0.01, "top_k": 0},
        {"eta_cutoff": 0.01, "top_k": 0},
    ],
)
def test_sampling_has_the_distribution_of_transformers(settings: dict) -> None:
    """Oracle: what transformers itself would do to the logits for the checkpoint's settings."""
    plain = tiny_hf()
    for name, value in settings.items():
        setattr(plain.generation_config, name, value)
    config, _ = plain._prepare_generation_config(None, do_sample=True)
    plain._prepare_special_tokens(config, False, device="cpu")
    theirs = plain._get_logits_processor(config, input_ids_seq_length=1, device="cpu")
    scores = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3
    ids = torch.ones(4, 1, dtype=torch.long)
    want = theirs(ids, scores.clone())
    ours = scores.clone()
    for each in warpers({name: getattr(plain.generation_config, name, None) for name in generation.SAMPLING}):
        ours = each(ids, ours)
    torch.testing.assert_close(ours, want)
    if settings.get("top_k") != 0 or len(settings) > 1:
        assert not torch.equal(ours, scores)


def test_tokens_are_chosen_as_often_as_their_probability_says() -> None:
    scores = torch.tensor([[0.5, 0.2, 0.0, 0.3]]).log().expand(20_000, 4)
    numbers = torch.from_numpy(np.random.default_rng(0).random((20_000, 1)))
    chosen = Choose(numbers, 1, [])(torch.ones(20_000, 1, dtype=torch.long), scores).argmax(dim=-1)
    shares = chosen.bincount(minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0.5, 0.2, 0.0, 0.3], abs=0.015)
    assert shares[2] == 0
    ends = Choose(torch.tensor([[0.0], [1 - 1e-12]]), 1, [])(torch.ones(2, 1, dtype=torch.long), scores[:2]).argmax(dim=-1)
    assert ends.tolist() == [0, 3]
    assert uniforms([1, 2], 0, 3).tolist() != uniforms([1, 2], 1, 3).tolist() != uniforms([2, 1], 1, 3).tolist()


def test_the_checkpoints_own_settings_hold_where_none_is_given() -> None:
    plain = tiny_hf()
    plain.generation_config.top_k = 1  # sampling is greedy then
    model = load_model(plain, tokenizer=tiny_tokenizer())
    assert model.generate(PROMPTS, **SAMPLING) == model.generate(PROMPTS, max_new_tokens=20)
    assert model.generate(PROMPTS, **SAMPLING, top_k=0) != model.generate(PROMPTS, max_new_tokens=20)


def test_memory_that_runs_out_halves_the_batch(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    want = model.generate(PROMPTS, max_new_tokens=5)
    whole, sizes = type(model)._generate, []

    def small(self: LensModel, prompts, **options):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("no room")
        return whole(self, prompts, **options)

    monkeypatch.setattr(type(model), "_generate", small)
    assert model.generate(PROMPTS, max_new_tokens=5) == want
    assert sizes == [5, 2, 2, 1]


def test_beams_are_refused_and_rows_are_limited_by_memory(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="without beams"):
        model.generate(PROMPTS, max_new_tokens=3, num_beams=2)
    assert model.rows_at_once(20) == base.MAX_ROWS
    monkeypatch.setattr(base.psutil, "virtual_memory", lambda: type("M", (), {"available": 4_000_000})())
    assert 1 <= model.rows_at_once(20) < base.MAX_ROWS
    assert model.rows_at_once(2000) < model.rows_at_once(20)


@pytest.mark.parametrize("options", [{"max_new_tokens": 21}, SAMPLING], ids=["greedy", "sampled"])
def test_a_stream_ends_with_the_answers_of_generate(model: LensModel, options: dict[str, object]) -> None:
    steps = [[list(answer) for answer in answers] for answers in model.stream(PROMPTS, **options)]
    assert len(steps) == 3
    assert steps[-1] == model.generate(PROMPTS, **options)
    assert all(
        after[: len(before)] == before
        for one, two in zip(steps, steps[1:], strict=False)
        for before, after in zip(one, two, strict=True)
    )


def test_what_is_intercepted_holds_for_the_tokens_of_its_turn_alone(model: LensModel) -> None:
    def silence(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y * 0

    plain = model.generate(PROMPTS, max_new_tokens=24)
    stream = model.stream(PROMPTS, max_new_tokens=24)
    first = [list(answer) for answer in next(stream)]
    assert model.generate(PROMPTS, max_new_tokens=24) == plain  # the model is free in between
    assert model.batch is None
    assert torch.is_grad_enabled()
    with model.intercept({("mlp", 0): silence, ("attn", 1): silence}):
        second = [list(answer) for answer in next(stream)]
    assert [answer[:8] for answer in plain] == first
    assert [answer[:8] for answer in second] == first
    assert [answer[:16] for answer in plain] != second


def test_a_stream_refuses_what_does_not_fit_at_once(model: LensModel) -> None:
    with pytest.raises(ModelError, match="do not fit the context"):
        model.stream([[1] * model.shapes.n_ctx], max_new_tokens=1)
