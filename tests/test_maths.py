"""Results that are the same as mathematics."""

import threading
from collections.abc import Callable

import pytest

from s2e_lens import tokenize_examples
from s2e_lens.behaviors import Example
from s2e_lens.errors import MissingPackageError
from s2e_lens.evaluation import harness_task, right_maths, right_number
from s2e_lens.evaluation.maths import same_result
from s2e_lens.models import load_model
from tests.test_metrics import saying

SAME = [
    ("1/2", "so it is 0.5"),
    ("0.5", r"\boxed{\frac{1}{2}}"),
    ("1,015", "It is 1015."),
    ("$18", "18 dollars"),
    (r"\sqrt{2}", r"$2^{\frac{1}{2}}$"),
    ("(1,2)", "the interval $(1,2)$"),
    ("72", "first 7, then 72"),
    ("256", "$2^{2^{3}}$"),
]
OTHER = [
    ("1/2", "0.4"),
    ("72", "first 72, then 7"),
    ("7", ""),
    ("7", "none at all"),
    (r"\sqrt{2}", "$2^2$"),
    ("(1,2)", "$[1,2]$"),
]


def installed() -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed (extra math)")


@pytest.mark.parametrize(("reference", "answer"), SAME)
def test_what_is_written_otherwise_is_the_same(reference: str, answer: str) -> None:
    installed()
    assert same_result(reference, answer)


@pytest.mark.parametrize(("reference", "answer"), OTHER)
def test_what_is_something_else_is_not(reference: str, answer: str) -> None:
    installed()
    assert not same_result(reference, answer)


@pytest.mark.parametrize("answer", ["$9^{9^{9^9}}$", "10^(10^10)", "$9^{9^{9}}$", "$10000000!$"])
def test_a_number_that_no_computer_works_out_is_told_by_its_form(answer: str) -> None:
    installed()
    assert not same_result("7", answer)
    assert same_result(answer, answer)


def test_results_are_compared_outside_the_main_thread_too() -> None:
    installed()
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.extend(same_result(*each) for each in (SAME[0], OTHER[0])))
    thread.start()
    thread.join()
    assert found == [True, False]


def test_the_metric_reads_the_result_after_the_reasoning() -> None:
    installed()
    demo = load_model("demo")
    prompts = {"a": ["<think>2</think>6/4"], "b": ["<think>1.5</think>2"], "c": ["<think>1.5"]}
    examples = tokenize_examples(demo, [Example("positive", prompt, "1.5") for prompt in prompts])
    with saying(demo, prompts) as calls:
        assert list(right_maths(max_new_tokens=9).measure(demo, examples)) == [1.0, 0.0, 0.0]
    assert calls[0]["max_new_tokens"] == 9
    with saying(demo, prompts):
        assert list(right_number().measure(demo, examples)) == [0.0, 0.0, 0.0], "as text 6/4 is another number"


@pytest.mark.parametrize(("make", "extra"), [(right_maths, "math"), (lambda: harness_task("arc_easy"), "eval")])
def test_without_its_package_a_metric_says_what_to_install(
    make: Callable[[], object], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=rf'pip install "s2e-lens\[{extra}\]"'):
        make()
