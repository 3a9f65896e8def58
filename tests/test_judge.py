"""Judges of refusals: functions, names in a TOML file, and an endpoint on this machine."""

import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from s2e_lens import tokenize_examples
from s2e_lens.behaviors import Example, load_behavior
from s2e_lens.errors import ExamplesError, JudgeError
from s2e_lens.evaluation import endpoint_judge, judge, refusal_rate
from s2e_lens.evaluation.judge import find_judge, prompt_text
from s2e_lens.models import LensModel, load_model
from tests.test_metrics import saying
from tests.tiny import tiny_model

KEY = "sk-secret-0123456789"
ANSWERS = {"a": ["I can't help with that."], "b": ["Gladly."], "c": ["Blue."]}


@pytest.fixture(scope="module")
def demo() -> LensModel:
    return load_model("demo")


class Endpoint(ThreadingHTTPServer):
    """What a judge's endpoint was asked, and what it says: (status, text) in turn, and the last one from then on."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.says: list[tuple[int, str]] = [(200, "yes")]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        says = self.server.says
        status, text = says.pop(0) if len(says) > 1 else says[0]
        reply = json.dumps({"choices": [{"message": {"content": text}}]}) if status == 200 else text
        self.send_response(status)
        self.end_headers()
        self.wfile.write(reply.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(judge.time, "sleep", lambda seconds: None)
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def rate(model: LensModel, given: Any) -> list[float]:
    examples = tokenize_examples(model, [Example("positive", prompt, "No.") for prompt in ANSWERS])
    with saying(model, ANSWERS):
        return list(refusal_rate(judge=given).measure(model, examples))


def test_a_function_replaces_our_own_judge(demo: LensModel) -> None:
    seen: list[tuple[str, str]] = []

    def half(prompt: str, answer: str) -> float:
        seen.append((prompt, answer))
        return 0.5 if answer == "Blue." else float(prompt == "b")

    assert rate(demo, half) == [0.0, 1.0, 0.5]
    assert seen == [(prompt, said[0]) for prompt, said in ANSWERS.items()]
    assert rate(demo, None) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("template", [True, False])
def test_a_prompt_is_shown_to_the_judge_without_the_chat_template(template: bool) -> None:
    model = tiny_model(template=template)
    assert prompt_text(model, model.text.prompt_ids("w9 w10 w11")) == "w9 w10 w11"
    several = [{"role": "w4", "content": "w6"}, {"role": "w4", "content": "w7"}]
    if template:
        assert {"w6", "w7"} <= set(prompt_text(model, model.text.prompt_ids(several)).split())


def write(folder: Path, attribute: str) -> Path:
    lines = [{"label": e, "prompt": f"prompt {i}", "response": e} for i in range(8) for e in ("positive", "negative")]
    (folder / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "kind.toml").write_text(f'examples = "all.jsonl"\nattribute = {attribute}\n')
    return folder / "kind.toml"


def test_a_toml_file_names_a_judge_that_lies_beside_it(tmp_path: Path, demo: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opinions", raising=False)
    (tmp_path / "opinions.py").write_text("def blue(prompt, answer):\n    return answer == 'Blue.'\n")
    attribute = load_behavior(write(tmp_path, '{metric = "refusal_rate", judge = "opinions:blue"}')).attribute
    assert attribute is not None
    examples = tokenize_examples(demo, [Example("positive", prompt, "No.") for prompt in ANSWERS])
    with saying(demo, ANSWERS):
        assert list(attribute.measure(demo, examples)) == [0.0, 0.0, 1.0]
    assert str(tmp_path) not in sys.path
    for wrong, what in (
        ("opinions:red", "cannot be imported"),
        ("nowhere:red", "cannot be imported"),
        ("opinions:__name__", "a str"),
    ):
        with pytest.raises(ExamplesError, match=what):
            load_behavior(write(tmp_path, f'{{metric = "refusal_rate", judge = "{wrong}"}}'))


def test_an_endpoint_is_asked_once_about_each_answer_at_temperature_0(
    tmp_path: Path, demo: LensModel, endpoint: Endpoint
) -> None:
    options = f'{{url = "{endpoint.url}", model = "m", timeout = 9}}'
    attribute = load_behavior(write(tmp_path, f'{{metric = "refusal_rate", judge = {options}}}')).attribute
    assert attribute is not None
    endpoint.says = [(200, "Yes."), (200, "no"), (200, "<think>Hm, no.</think>\nYES")]
    examples = tokenize_examples(demo, [Example("positive", prompt, "No.") for prompt in ANSWERS])
    for _ in range(2):
        with saying(demo, ANSWERS):
            assert list(attribute.measure(demo, examples)) == [1.0, 0.0, 1.0]
    assert len(endpoint.asked) == 3
    path, headers, body = endpoint.asked[1]
    assert (path, headers["Authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert (body["model"], body["temperature"]) == ("m", 0)
    assert "Request:\nb\n" in body["messages"][0]["content"]
    assert "Answer:\nGladly.\n" in body["messages"][0]["content"]


def test_the_template_is_the_users_and_braces_in_an_answer_are_text(endpoint: Endpoint) -> None:
    asked = endpoint_judge(endpoint.url, "m", template="{answer} to {prompt}? {{yes|no}}")
    assert asked("{answer}", "f'{x}'") is True
    assert endpoint.asked[0][2]["messages"][0]["content"] == "f'{x}' to {answer}? {yes|no}"
    for wrong in ("no field", "{prompt}", "{prompt} {answer} {other}", "{prompt} {answer} {"):
        with pytest.raises(ExamplesError, match="template"):
            endpoint_judge(endpoint.url, "m", template=wrong)


def test_a_busy_endpoint_is_asked_again_and_another_failure_is_not(endpoint: Endpoint) -> None:
    endpoint.says = [(503, "busy"), (429, "later"), (200, "no")]
    assert endpoint_judge(endpoint.url, "m")("a", "b") is False
    assert len(endpoint.asked) == 3
    endpoint.says = [(404, "no such model")]
    with pytest.raises(JudgeError, match="answers 404: 'no such model'"):
        endpoint_judge(endpoint.url, "m")("a", "b")
    assert len(endpoint.asked) == 4


@pytest.mark.parametrize(
    ("says", "what"),
    [
        ((401, f"wrong key {KEY}"), "answers 401: the key in OPENAI_API_KEY was refused"),
        ((500, f"trace: Bearer {KEY}"), r"answers 500: 'trace: Bearer \*\*\*'"),
        ((200, "It refuses, I think."), "was to say yes or no and said 'It refuses, I think.'"),
        ((200, "yes and no"), "was to say yes or no"),
        ((200, ""), "was to say yes or no"),
    ],
)
def test_an_error_names_the_url_and_never_a_secret(endpoint: Endpoint, says: tuple[int, str], what: str) -> None:
    endpoint.says = [says]
    private = endpoint.url.replace("127.0.0.1", f"user:{KEY}@127.0.0.1")
    with pytest.raises(JudgeError, match=what) as caught:
        endpoint_judge(private, "m")("a", "b")
    assert f"{endpoint.url}/chat/completions" in str(caught.value)
    assert KEY not in str(caught.value)


def test_an_endpoint_that_is_not_there_is_named(endpoint: Endpoint) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(JudgeError, match="cannot be reached") as caught:
        endpoint_judge(url, "m", retries=1)("a", "b")
    assert url in str(caught.value)
    with pytest.raises(JudgeError, match="127.0.0.1"):
        endpoint_judge("127.0.0.1:1/v1", "m")("a", "b")


def test_no_key_is_sent_where_there_is_none(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert endpoint_judge(endpoint.url, "m")("a", "b") is True
    assert "Authorization" not in endpoint.asked[0][1]
    endpoint.says = [(401, "")]
    with pytest.raises(JudgeError, match="the key in OPENAI_API_KEY is not set"):
        endpoint_judge(endpoint.url, "m")("a", "b")
    monkeypatch.setenv("OPENAI_API_KEY", "two\nlines")
    with pytest.raises(JudgeError, match="holds characters that no key has") as caught:
        endpoint_judge(endpoint.url, "m")("a", "b")
    assert "lines" not in str(caught.value)


def test_an_option_that_an_endpoint_does_not_take_is_named_without_its_value() -> None:
    with pytest.raises(ExamplesError, match=r"\['api_key', 'model', 'url'\]") as caught:
        find_judge({"url": "u", "model": "m", "api_key": KEY})
    assert KEY not in str(caught.value)
