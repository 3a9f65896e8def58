"""Tasks of the lm-evaluation-harness, against the harness's own Hugging Face model; offline, on a task made here."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from s2e_lens import edited, steered
from s2e_lens.behaviors import Task, TokenizedExample, load_behavior, tokenize_examples
from s2e_lens.errors import ExamplesError
from s2e_lens.evaluation import harness_task
from s2e_lens.evaluation.harness import _document, _item, continuations
from s2e_lens.models import LensModel
from tests.helpers import tiny_directions, tiny_edit
from tests.tiny import tiny_model

lm_eval = pytest.importorskip("lm_eval", reason="the lm-evaluation-harness is not installed (extra eval)")

CHOOSE = """
task: tiny_choose
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: "{{{{right}}}}"
metric_list:
  - {{metric: acc}}
  - {{metric: acc_norm}}
"""
SAY = """
task: tiny_say
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{said}}}}"
generation_kwargs: {{until: ["w7"], max_gen_toks: 4, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture(scope="module")
def model() -> LensModel:
    return tiny_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: LensModel) -> Path:
    """Two tasks over 24 documents: to choose among three continuations, and to say what the model says to every second."""
    where = tmp_path_factory.mktemp("tasks")
    choice = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{choice.randrange(4, 128)}" for _ in range(count))

    documents = []
    for i in range(24):
        question = words(choice.randint(2, 8))
        said = model.text.decode(model.generate([model.text.text_ids(question)], max_new_tokens=4)[0]).partition("w7")[0]
        options = [words(choice.randint(1, 3)) for _ in range(3)]
        documents.append({"question": question, "options": options, "right": i % 3, "said": said if i % 2 else "w9 w9"})
    data = where / "documents.jsonl"
    data.write_text("\n".join(map(json.dumps, documents)))
    (where / "choose.yaml").write_text(CHOOSE.format(data=json.dumps(str(data))))
    (where / "say.yaml").write_text(SAY.format(data=json.dumps(str(data))))
    return where


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def plain_scores(model: LensModel, folder: Path, task: str, metric: str) -> list[float]:
    """What the harness says of the plain Hugging Face model that shares the weights."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    twin: Any = model.twin
    plain = HFLM(pretrained=twin, tokenizer=copy.deepcopy(model.text.tokenizer), batch_size=4)
    found: Any = lm_eval.simple_evaluate(
        plain, tasks=[task], task_manager=TaskManager(include_path=str(folder), include_defaults=False), bootstrap_iters=0
    )
    return [float(each[metric]) for each in sorted(found["samples"][task], key=lambda each: each["doc_id"])]


def scores(model: LensModel, task: Task) -> list[float]:
    return list(task.metric.measure(model, tokenize_examples(model, task.test)))


@pytest.mark.parametrize(("task", "metric"), [("tiny_choose", "acc"), ("tiny_choose", "acc_norm"), ("tiny_say", "exact_match")])
def test_every_document_scores_as_on_the_plain_hugging_face_model(model: LensModel, folder: Path, task: str, metric: str) -> None:
    want = plain_scores(model, folder, task, metric)
    assert scores(model, harness_task(task, metric=metric, include_path=folder)) == want
    assert 0 < sum(want) < len(want)


def test_an_edit_and_a_steering_vector_are_both_seen(model: LensModel, folder: Path) -> None:
    task = harness_task("tiny_choose", include_path=folder)
    before = scores(model, task)
    with edited(model, tiny_edit(model)):
        within = scores(model, task)
        assert within == plain_scores(model, folder, "tiny_choose", "acc")
    with steered(model, tiny_directions(model), 4.0):
        under = scores(model, task)
        assert plain_scores(model, folder, "tiny_choose", "acc") == before, "the plain model does not see hooks"
    assert within != before
    assert under != before
    assert scores(model, task) == before


def test_documents_are_drawn_by_the_seed_and_splits_share_none(model: LensModel, folder: Path) -> None:
    everything = scores(model, harness_task("tiny_choose", include_path=folder))
    drawn = [harness_task("tiny_choose", include_path=folder, limit=9, validation=5, seed=seed) for seed in (1, 1, 2)]
    chosen = [[_document(each) for each in task.test if isinstance(each, TokenizedExample)] for task in drawn]
    assert chosen[0] == chosen[1] != chosen[2]
    aside = [_document(each) for each in drawn[0].validation if isinstance(each, TokenizedExample)]
    assert len({*chosen[0], *aside}) == 14
    assert scores(model, drawn[0]) == [everything[i] for i in chosen[0]]
    items = tokenize_examples(model, drawn[0].test)[::-1]
    assert list(drawn[0].metric.measure(model, items)) == [everything[i] for i in chosen[0][::-1]], "in the order of the items"


def test_an_item_holds_the_number_of_its_document() -> None:
    assert [_document(_item(i)) for i in range(70)] == list(range(70))
    assert len({_item(i).key for i in range(70)}) == 70


def test_a_continuation_that_is_too_long_loses_its_front(model: LensModel) -> None:
    long = [1, *(4 + i % 100 for i in range(300))]
    whole, cut = continuations(model, [(long[:298], long[298:]), (long[-128:-3], long[-3:])])
    assert whole == pytest.approx(cut)
    assert continuations(model, [(long[:20], long[20:23])])[0] != pytest.approx(cut)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"harness": "no_such_task"}, "has no task 'no_such_task'"),
        ({"harness": "tiny_choose", "limit": 20, "validation": 5}, "has 24 documents"),
        ({"harness": "tiny_choose", "limit": 0}, "at least one is needed"),
    ],
)
def test_a_task_that_cannot_be_made_is_a_clear_error(folder: Path, options: dict[str, Any], what: str) -> None:
    with pytest.raises(ExamplesError, match=what):
        harness_task(include_path=folder, **options)


def test_a_metric_or_filter_that_the_task_lacks_is_named(model: LensModel, folder: Path) -> None:
    with pytest.raises(ExamplesError, match="its metrics are .*'acc'"):
        scores(model, harness_task("tiny_choose", include_path=folder, metric="beauty"))
    with pytest.raises(ExamplesError, match="by the filters .'none'."):
        scores(model, harness_task("tiny_choose", include_path=folder, filter="strict"))


def test_a_toml_file_names_a_task_of_the_harness(tmp_path: Path, model: LensModel, folder: Path) -> None:
    lines = [
        {"label": label, "prompt": f"w{i}", "response": f"w{i + 9}"} for i in range(9, 15) for label in ("positive", "negative")
    ]
    for i, line in enumerate(lines):
        line["response"] = f"w{20 + i}"
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = f'{{task = "harness_task", harness = "tiny_choose", limit = 7, include_path = {json.dumps(str(folder))}}}'
    path = tmp_path / "kind.toml"
    path.write_text(f'examples = "all.jsonl"\n[[utility]]\nname = "choosing"\ntask = {task}\n')
    [found] = load_behavior(path).utility
    assert found.name == "choosing"
    assert len(scores(model, found)) == 7
    path.write_text(f'examples = "all.jsonl"\n[[utility]]\ntask = {task}\nmetric = "exact_answer"\n')
    with pytest.raises(ExamplesError, match="with 'task' takes no"):
        load_behavior(path)
