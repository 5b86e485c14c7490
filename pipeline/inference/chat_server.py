"""Answers of an OpenAI-compatible chat server (vLLM, `transformers serve`) about pictures, in parallel and with retries."""

from __future__ import annotations

import base64
import email.utils
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cache.errors import MachineError, MissingSourceError
from pipeline.datasets.question import Question
from pipeline.engine.places import ServerPlace
from pipeline.inference.written_answers import GARBAGE, REFUSED, WrittenAnswer, named_option, written_prompt
from pipeline.reasons import Reason

log = logging.getLogger("sevila")

REQUEST_ERRORS = {400, 413, 415, 422}  # a single request is rejected: too long, too large, against a policy
CONFIGURATION_ERRORS = {  # status -> setting to check
    401: "the key",
    402: "the spending limit of the key's account",
    403: "the key",
    404: "the address and the model's name",
    405: "the address",
}
PASSING_ERRORS = {408, 409, 425}  # retried, as 5xx are
GARBAGE_TRIES = 3  # attempts until a response that is no chat completion counts; a proxy may fail temporarily
MAX_RESPONSE_BYTES = 1 << 24  # a longer response is truncated, and thus no chat completion


@dataclass(frozen=True)
class Patience:
    """Limits for waiting and retries.

    Attributes:
        tries: attempts at a request that fails or is not answered; responses with status 429 do not count.
        first_seconds: wait after the first failure; doubled after each, up to a minute.
        put_off_seconds: total wait of a request because of status 429.
        answer_seconds: timeout for silence, and for the time in which an answer arrives.
    """

    tries: int = 6
    first_seconds: float = 1.0
    put_off_seconds: float = 1800.0
    answer_seconds: float = 600.0

    def after(self, failures: int) -> float:
        """Return the seconds to wait after this number of failures."""
        return min(60.0, self.first_seconds * 2.0 ** (failures - 1))


PATIENCE = Patience()


class ServedVlm:
    """Asks a server; answers do not depend on how many questions are asked at once."""

    suffix = ".jpg"

    def __init__(
        self,
        server: ServerPlace,
        model: str,
        instruction: str,
        max_new_tokens: int,
        at_once: int,
        per_minute: float | None = None,
    ) -> None:
        """Args: `at_once`: maximum number of concurrent questions; `per_minute`: maximum number of requests, with retries."""
        self._server, self._model = server, model
        self._instruction, self._max_new_tokens = instruction, max_new_tokens
        headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
        timeout = httpx.Timeout(PATIENCE.answer_seconds, connect=min(30.0, PATIENCE.answer_seconds))
        self._client = httpx.Client(headers=headers, timeout=timeout)
        self._threads = ThreadPoolExecutor(at_once)
        self._pending = threading.Semaphore(2 * at_once)  # limits the pictures in memory
        self._not_before = 0.0  # a delay by status 429 applies to all requests
        self._turns, self._next_turn = threading.Lock(), 0.0
        self._seconds_apart = 60 / per_minute if per_minute else 0.0
        self._stopped = threading.Event()
        self._cause: BaseException | None = None  # the error that stopped all requests

    def ask(self, question: Question, pictures: Sequence[Path]) -> Callable[[], WrittenAnswer]:
        """Send a question, and return a function that waits for the answer or raises `MachineError` if the server fails."""
        body = self._body(question, pictures)
        self._pending.acquire()

        def answer() -> WrittenAnswer:
            try:
                return self._answer(question, body)
            except BaseException as error:
                self._cause = self._cause or error
                self._stopped.set()  # the other requests would fail too
                raise
            finally:
                self._pending.release()

        return self._threads.submit(answer).result

    def close(self) -> None:
        """Abandon unanswered questions."""
        self._stopped.set()
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def _body(self, question: Question, pictures: Sequence[Path]) -> dict[str, Any]:
        urls = [f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}" for path in pictures]
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content.append({"type": "text", "text": written_prompt(question, self._instruction)})
        messages = [{"role": "user", "content": content}]
        return {"model": self._model, "messages": messages, "max_tokens": self._max_new_tokens, "temperature": 0}

    def _answer(self, question: Question, body: dict[str, Any]) -> WrittenAnswer:
        for attempt in range(1, GARBAGE_TRIES + 1):
            response = self._response(body)
            if response.status_code in REQUEST_ERRORS:
                return WrittenAnswer(Reason(f"{REFUSED}: {response.status_code}: {_shown(response)}"))
            reply = _reply(response)
            if reply.reason.code != GARBAGE:
                break
            if attempt < GARBAGE_TRIES:
                self._sleep(PATIENCE.after(attempt))
        return reply if reply.reason else named_option(question, reply)

    def _response(self, body: dict[str, Any]) -> httpx.Response:
        """Return the successful or rejecting response to a request, after retries.

        Raises:
            MachineError: the server fails.
            MissingSourceError: the address, the model's name or the key is wrong.
        """
        failures, put_off, patience = 0, 0.0, PATIENCE
        while True:
            self._wait_for_turn()
            try:
                response = self._post(body)
                problem = f"{response.status_code}: {_shown(response)}"
            except httpx.RequestError as error:
                response, problem = None, f"{type(error).__name__}: {error}"
            if response is not None and response.status_code == 429:
                wait = max(_retry_after(response), patience.first_seconds)
                put_off += wait
                if put_off > patience.put_off_seconds:
                    raise self._error(f"puts requests off again and again ({problem})", "ask it for less at once")
                self._not_before = max(self._not_before, time.monotonic() + wait)
                log.info("the server asks to wait for %.0f s", wait)
            elif response is None or response.status_code >= 500 or response.status_code in PASSING_ERRORS:
                failures += 1
                if failures == patience.tries:
                    raise self._error(f"failed {failures} times ({problem})", "see its log")
                retry_after = 0.0 if response is None else _retry_after(response)
                self._sleep(min(60.0, max(retry_after, patience.after(failures))))
            elif response.status_code in CONFIGURATION_ERRORS:
                setting = CONFIGURATION_ERRORS[response.status_code]
                raise MissingSourceError(f"{self._server.url}: the server says {problem}; check {setting}")
            elif response.is_success or response.status_code in REQUEST_ERRORS:
                return response
            else:
                raise self._error(f"says {problem}", "expected the address of an OpenAI-compatible server")

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        """Return a response without its encoding headers, truncated to `MAX_RESPONSE_BYTES`. Raises `httpx.RequestError`."""
        with self._client.stream("POST", f"{self._server.url}/chat/completions", json=body) as response:
            content, start = bytearray(), time.monotonic()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_RESPONSE_BYTES:
                    break
                if time.monotonic() - start > PATIENCE.answer_seconds:
                    raise httpx.ReadTimeout(f"still answering after {PATIENCE.answer_seconds:.0f} s")
            headers = {"Retry-After": response.headers.get("Retry-After", "")}
            return httpx.Response(response.status_code, headers=headers, content=bytes(content[:MAX_RESPONSE_BYTES]))

    def _wait_for_turn(self) -> None:
        with self._turns:
            turn = max(time.monotonic(), self._not_before, self._next_turn)
            self._next_turn = turn + self._seconds_apart
        self._sleep(turn - time.monotonic())
        self._sleep(self._not_before - time.monotonic())  # may have increased meanwhile

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)):
            raise self._cause or MachineError(f"{self._server.url}: no longer asked")

    def _error(self, problem: str, fix: str) -> MachineError:
        return MachineError(
            f"{self._server.url}: the server {problem}; {fix}, then run the same command again: finished shards are kept"
        )


def _reply(response: httpx.Response) -> WrittenAnswer:
    """Return the text and token counts of a chat completion, or the reason if the response is none."""
    try:
        content = response.json()
        choice = content["choices"][0]
        text = choice["message"]["content"] or ""
        usage = content.get("usage") or {}
        if not isinstance(text, str):
            raise TypeError(f"content is {type(text).__name__}")
        finish = str(choice.get("finish_reason") or "")
        prompt_tokens, reply_tokens = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return WrittenAnswer(Reason(f"{GARBAGE}: wanted a chat completion, got {_shown(response)}"))
    text, finish = _storable(text), _storable(finish)
    return WrittenAnswer(text=text, finish=finish, prompt_tokens=prompt_tokens, reply_tokens=reply_tokens)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**31 else None


def _storable(text: str) -> str:
    """Return the text with "?" for lone surrogates, which JSON can contain but UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _shown(response: httpx.Response) -> str:
    text = _storable(" ".join(response.text.split()))
    return (f"{text[:200]}..." if len(text) > 200 else text) or "an empty response"


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds of a Retry-After header, a number or a date; 0 if it is missing or invalid."""
    value = response.headers.get("Retry-After", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
