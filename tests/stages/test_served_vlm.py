"""`answer_with_vlm` through a chat server: replies, retries and failures."""

import base64
import email.utils
import io
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from cache.errors import MachineError, MissingSourceError
from cli import main
from pipeline.datasets.question import Question
from pipeline.engine.places import ServerPlace
from pipeline.inference import chat_server
from pipeline.inference.chat_server import Patience, ServedVlm
from pipeline.inference.written_answers import WrittenAnswer
from tests.chat_server import Reply, ScriptedServer, completion
from tests.stages.runs import arguments, artifact, records
from tests.stages.test_answer_with_vlm import answers_of, run
from tests.stages.test_lmms_eval import PYTHON
from tests.tiny_vlm import write_tiny_vlm

pytestmark = pytest.mark.slow

SERVED = ("--set", "answer_with_vlm.served=some/model", "--set", "answer_with_vlm.height=64")
SHARDS_OF_TWO_VIDEOS = ("--shard-megabytes", "0.1")
Respond = Callable[[int, dict[str, Any]], Reply]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Respond], ScriptedServer]]:
    """Return a function that starts a scripted server and directs requests to it, with short timeouts."""
    patience = Patience(tries=3, first_seconds=0.001, put_off_seconds=5, answer_seconds=3)
    monkeypatch.setattr(chat_server, "PATIENCE", patience)
    with ExitStack() as running:

        def start(respond: Respond) -> ScriptedServer:
            server = running.enter_context(ScriptedServer(respond).running())
            monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/")
            monkeypatch.setenv("OPENAI_API_KEY", "a key")
            return server

        yield start


def ask(n_questions: int, folder: Path, at_once: int = 1, per_minute: float | None = None) -> list[WrittenAnswer]:
    picture = folder / "picture.jpg"
    Image.new("RGB", (8, 8)).save(picture)
    question = Question("q", "v", "What?", ("red", "green"), 0, "", None, None)
    with closing(
        ServedVlm(ServerPlace.of_environment("some/model"), "some/model", "", 8, at_once, per_minute)
    ) as server:
        return [answer() for answer in [server.ask(question, [picture]) for _ in range(n_questions)]]


def test_requests_are_retried_after_temporary_failures(
    serve: Callable[[Respond], ScriptedServer], tmp_path: Path
) -> None:
    replies = [
        Reply(429, b"slow down", {"Retry-After": "0.01"}),
        Reply(429, b"slow down", {"Retry-After": email.utils.formatdate()}),
        Reply(429, b"slow down", {"Retry-After": "soon"}),
        Reply(500, b"<html>oops</html>"),
        Reply(503, b"", {"Retry-After": "0"}),
        Reply(body=b'{"error": {"code": 503, "message": "overloaded"}}'),
        Reply(body=b"<html>a proxy's page</html>"),
        completion("A"),
        Reply(425, b"too early"),
        completion("B"),
        Reply(hangs_up=True),
        Reply(waits=True),
    ]
    server = serve(lambda number, _: replies[number] if number < len(replies) else completion("B"))
    assert [answer.prediction for answer in ask(3, tmp_path)] == [0, 1, 1]
    assert len(server.bodies) == 1 + len(replies)
    assert len(ask(40, tmp_path, at_once=8)) == 40


def test_the_request_rate_limit_includes_retries_and_concurrent_requests(
    serve: Callable[[Respond], ScriptedServer], tmp_path: Path
) -> None:
    arrived: list[float] = []

    def respond(number: int, _: dict[str, Any]) -> Reply:
        arrived.append(time.monotonic())
        return Reply(503) if number in (2, 3) else completion("A")

    serve(respond)
    began = time.monotonic()
    assert len(ask(8, tmp_path, at_once=8, per_minute=1200)) == 8
    assert len(arrived) == 10 and all(at - began >= 0.05 * place for place, at in enumerate(sorted(arrived)))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion("I cannot tell: A or B"), "unparsed_reply: names no option, or several: 'I cannot tell: A or B'"),
        (
            completion("Well, let me look", "length"),
            "unparsed_reply: names no option, or several, cut after 3 tokens: ",
        ),
        (completion(""), "empty_reply: "),
        (completion(None), "empty_reply: "),
        (completion(["A"]), "garbage_from_server: wanted a chat completion, got "),
        (Reply(body=b""), "garbage_from_server: wanted a chat completion, got an empty response"),
        (Reply(body=b"\xff\x00<html>"), "garbage_from_server: "),
        (Reply(body=b'{"choices": []}'), "garbage_from_server: "),
        (Reply(body=b"null"), "garbage_from_server: "),
        (Reply(body=b"[" * 100_000), "garbage_from_server: "),
        (Reply(body=b"<html>", headers={"Content-Type": "text/html; charset=hex"}), "garbage_from_server: "),
        (Reply(body=b"x" * (1 << 20), repeats=0), "garbage_from_server: "),  # without an end
        (Reply(400, b"context length is 100 tokens"), "refused_by_server: 400: context length is 100 tokens"),
    ],
)
def test_an_invalid_reply_leaves_the_question_unanswered_with_a_reason(
    serve: Callable[[Respond], ScriptedServer], tmp_path: Path, reply: Reply, reason: str
) -> None:
    serve(lambda *_: reply)
    (answer,) = ask(1, tmp_path)
    assert answer.prediction is None and answer.reason.startswith(reason)


def test_unpaired_surrogates_in_a_reply_are_replaced(
    serve: Callable[[Respond], ScriptedServer], tmp_path: Path
) -> None:
    serve(lambda *_: completion("B. \ud83d \U0001f600", finish="\udcff"))
    (answer,) = ask(1, tmp_path)
    assert (answer.prediction, answer.text, answer.finish) == (1, "B. ? \U0001f600", "?")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(500, b"out of memory"), "the server failed 3 times (500: out of memory)"),
        (Reply(hangs_up=True), "the server failed 3 times (RemoteProtocolError"),
        (Reply(500, b"oops", {"Content-Type": "text/plain; charset=rot13"}), "the server failed 3 times (500: oops)"),
        (Reply(body=b" ", repeats=0.1), "the server failed 3 times (ReadTimeout: still answering after 0 s)"),
        (Reply(402, b"no credit"), "the server says 402: no credit; check the spending limit of the key's account"),
        (Reply(429, b"tomorrow", {"Retry-After": "86400"}), "the server puts requests off again and again"),
        (Reply(401, b"bad key"), "the server says 401: bad key; check the key"),
        (Reply(404, b"no such model"), "the server says 404: no such model; check the address and the model's name"),
        (Reply(302, b"moved"), "says 302: moved; expected the address of an OpenAI-compatible server"),
    ],
)
def test_a_server_that_fails_every_request_is_one_error(
    serve: Callable[[Respond], ScriptedServer],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    reply: Reply,
    message: str,
) -> None:
    if reply.repeats:
        monkeypatch.setattr(chat_server, "PATIENCE", replace(chat_server.PATIENCE, answer_seconds=0.4))
    serve(lambda number, _: completion("A") if number < 2 else reply)
    with pytest.raises((MachineError, MissingSourceError), match=re.escape(message)) as error:
        ask(9, tmp_path, at_once=4)
    assert "a key" not in str(error.value)


BAD_HOSTS = ["127.0.0.1:abc", "127.0.0.1:99999", "[::1", "[zz]", "a..b", "xn--", f"{'a' * 70}.org", ":80", "a\x01b"]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "http://", *(f"http://{host}/v1" for host in BAD_HOSTS)])
def test_an_invalid_server_address_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(MissingSourceError, match="OPENAI_BASE_URL"):
        ServerPlace.of_environment("some/model")


@pytest.mark.parametrize("key", ["sk-schlüssel", "sk-\u2026", "sk-1\nsk-2"])
def test_a_key_with_invalid_characters_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://[::1]:8000/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    assert ServerPlace.of_environment("some/model") == ("http://[::1]:8000/v1", "a key")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(MissingSourceError, match="OPENAI_API_KEY holds a character that no key has") as error:
        ServerPlace.of_environment("some/model")
    assert "sk-" not in str(error.value)


def test_each_model_uses_the_address_and_key_of_its_own_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (
        ("OPENAI_BASE_URL", "https://all.example/v1"),
        ("OPENAI_API_KEY", "all's"),
        ("SEVILA_SERVERS", "some/model=http://127.0.0.1:8001/v1/ other=http://127.0.0.1:8002/v1"),
        ("SEVILA_SERVER_KEYS", "other=other's"),
    ):
        monkeypatch.setenv(name, value)
    places = list(map(ServerPlace.of_environment, ("some/model", "other", "third")))
    assert places == [
        ("http://127.0.0.1:8001/v1", ""),
        ("http://127.0.0.1:8002/v1", "other's"),
        ("https://all.example/v1", "all's"),
    ]
    monkeypatch.setenv("SEVILA_SERVERS", "some/model=127.0.0.1:8001")
    with pytest.raises(
        MissingSourceError, match=r"SEVILA_SERVERS: some/model is '127.0.0.1:8001': expected the address"
    ):
        ServerPlace.of_environment("some/model")
    monkeypatch.setenv("SEVILA_SERVER_KEYS", "secret")
    monkeypatch.setenv("SEVILA_SERVERS", "some/model=http://127.0.0.1:8001/v1")
    with pytest.raises(MissingSourceError, match="SEVILA_SERVER_KEYS: entry 1 is not MODEL=VALUE") as error:
        ServerPlace.of_environment("some/model")
    assert "secret" not in str(error.value)


def test_a_sweep_with_two_servers_keeps_the_cells_of_one_when_the_other_refuses(
    serve: Callable[[Respond], ScriptedServer],
    demo: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    replies = {"one": completion("A"), "two": Reply(400, b"no pictures")}
    one, two = (serve(lambda _, body: replies[body["model"]]) for _ in range(2))
    monkeypatch.setenv("SEVILA_SERVERS", f"one={one.url} two={two.url}")
    monkeypatch.delenv("OPENAI_BASE_URL")
    few = ("--selectors", "oracle", "--k", "1", "--set", "list_questions.limit=3", "--set", "answer_with_vlm.height=64")
    command = arguments("sweep", demo, store, *few, "--answerers", "served=one", "served=two", "--json")

    def run_sweep(status: int) -> list[tuple[str, str, str]]:
        capsys.readouterr()
        assert main(command) == status
        return [(cell["selector"], cell["answerer"], cell["problem"]) for cell in json.loads(capsys.readouterr().out)]

    pairs = [(selector, answerer) for selector in ("uniform", "oracle") for answerer in ("served=one", "served=two")]
    cells = run_sweep(status=1)
    assert [cell[:2] for cell in cells] == pairs and not cells[0][2] and not cells[2][2]
    assert "two answered no question; the last reason: refused_by_server: 400: no pictures" in cells[1][2]
    assert cells[3][2] == "nothing to compare with: uniform, k = 1, answered by served=two has no numbers"
    replies["two"] = completion("B")
    assert not any(problem for _, _, problem in run_sweep(status=0))
    assert {body["model"] for body in one.bodies} == {"one"} and {body["model"] for body in two.bodies} == {"two"}


def test_run_requires_the_server_address_before_decoding_and_plan_does_not(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert run(demo, tmp_path, *SERVED) == 1
    assert {record.stage for record in records(tmp_path).values()} == {"list_questions"}
    assert run(demo, tmp_path, *SERVED, command="plan") == 0


def test_the_server_receives_keyframes_and_each_question_once(
    serve: Callable[[Respond], ScriptedServer], demo: Path, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def respond(number: int, body: dict[str, Any]) -> Reply:
        question = body["messages"][0]["content"][-1]["text"]
        return completion("The answer is B." if "colour" in question else "" if "Where" in question else "b")

    server = serve(respond)
    assert run(demo, store, *SERVED) == 0
    answered = {row["question_id"]: row for row in answers_of(store).rows("answers") if row["status"] == "ok"}
    assert len(server.bodies) == 24 and {row["prediction"] for row in answered.values()} == {1} and len(answered) == 16
    assert not any(row["option_logits"] for row in answered.values())
    for body, headers in zip(server.bodies, server.headers, strict=True):
        *pictures, text = body["messages"][0]["content"]
        images = [picture["image_url"]["url"].partition("data:image/jpeg;base64,")[2] for picture in pictures]
        assert [Image.open(io.BytesIO(base64.b64decode(image))).size for image in images] == [(64, 64)] * 4
        assert re.fullmatch("What .*|Where .*", text["text"].splitlines()[0]) and "\nB. " in text["text"]
        assert (body["path"], body["model"], body["temperature"]) == ("/v1/chat/completions", "some/model", 0)
        assert headers["Authorization"] == "Bearer a key"
    assert re.search(r"requests to some/model: 24 questions with 96 pictures: about [\d,]+ tokens", caplog.text)
    assert "some/model used 24,000 prompt tokens and 72 reply tokens" in caplog.text
    metrics = artifact(store, "metrics")
    assert metrics.headline().n_unanswered == 6 + 8 and len(metrics.rows("missing_videos")) == 2
    assert run(demo, store, *SERVED) == 0 and len(server.bodies) == 24
    assert run(demo, store, *SERVED, "--set", 'answer_with_vlm.revision="2"') == 0 and len(server.bodies) == 48


def test_questions_answered_before_a_server_failure_are_not_sent_again(
    serve: Callable[[Respond], ScriptedServer], demo: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(lambda *_: Reply(400, b"no pictures, please"))
    assert run(demo, store, *SERVED, *SHARDS_OF_TWO_VIDEOS) == 1
    assert "some/model answered no question" in capsys.readouterr().err
    serve(lambda number, _: completion("A") if number < 7 else Reply(500, b"out of memory"))
    assert run(demo, store, *SERVED, *SHARDS_OF_TWO_VIDEOS, "--server-requests", "1") == 1  # other pace, same answers
    assert "out of memory); see its log, then run the same command again" in capsys.readouterr().err
    server = serve(lambda *_: completion("A"))
    assert run(demo, store, *SERVED, *SHARDS_OF_TWO_VIDEOS, "--server-requests-per-minute", "60000") == 0
    assert len(server.bodies) == 24 - 6  # two videos of three questions were answered
    assert [row["prediction"] for row in answers_of(store).rows("answers") if row["status"] == "ok"] == [0] * 24


@pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-lmms: `make .venv-lmms/.installed` builds it")
def test_transformers_serve_answers_questions(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int
) -> None:
    write_tiny_vlm(tmp_path / "tiny", "llava")
    command = [PYTHON.with_name("transformers"), "serve", "tiny", "--host", "127.0.0.1", "--port", free_tcp_port]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen([*map(str, command), "--device", "cpu", "--dtype", "float32"], env=offline, cwd=tmp_path)
    try:
        url = f"http://127.0.0.1:{free_tcp_port}"
        while server.poll() is None:
            try:
                if httpx.get(f"{url}/health").is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        few = ("--set", "list_questions.limit=3", "--set", "answer_with_vlm.max_new_tokens=4")
        assert run(demo, tmp_path / "store", *few, "--set", "answer_with_vlm.served=tiny") == 0
        replies = answers_of(tmp_path / "store").rows("replies")
        assert len(replies) == 3 and all(row["prompt_tokens"] > 40 and row["reply_tokens"] == 4 for row in replies)
    finally:
        server.terminate()
        server.wait()
