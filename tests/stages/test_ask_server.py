"""The page of `sevila ask --serve` on its real server and in a real browser."""

import gc
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from cache.errors import SevilaError
from cache.store import Store
from cli import main
from cli.options import ExecutionOptions
from pipeline.engine.stage import RunContext
from reports import ask_server
from reports.ask_answer import answer_of
from reports.ask_page import answer_page
from reports.ask_run import AskRequest, ask_video
from tests.browser import chromium

pytest.importorskip("gradio", reason="the extra `serve` is not installed")
# Gradio leaves its event loop to the garbage collector and uses deprecated calls of pandas.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
BLIP2 = "Salesforce/blip2-flan-t5-xl"
CLIENT = httpx.Client(trust_env=False, timeout=30)


def answer(video: Path, question: str, options: Sequence[str]) -> str:
    return f"<p>{video.name} {video.stat().st_size} {question} {', '.join(options)}</p>"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ask_server.served(answer, 0, upload_megabytes=1) as url:
        yield url.rstrip("/")
    gc.collect()


def uploaded(address: str, name: str, content: bytes = b"moving") -> httpx.Response:
    return CLIENT.post(f"{address}/gradio_api/upload", files={"files": (name, content)})


def ask(address: str, path: str, question: str = "What?", options: str = "") -> str:
    """Return the server's events in reply to a question about an uploaded file."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    event = CLIENT.post(f"{address}/gradio_api/call/ask", json={"data": [file, question, options]}).json()["event_id"]
    return CLIENT.get(f"{address}/gradio_api/call/ask/{event}").text


def test_an_uploaded_video_gets_a_fixed_file_name(address: str) -> None:
    (path,) = uploaded(address, "..%2F..%2Fevil;rm -rf.mp4").json()
    reply = ask(address, path, "What colour?", "red\n\n blue ")
    assert "video.mp4 6 What colour? red, blue" in reply and "evil" not in reply


@pytest.mark.parametrize("name", ["page.html", "list.m3u8", "list.ffconcat", "video.mp4.svg", "noname"])
def test_uploads_without_a_video_suffix_are_refused(address: str, name: str) -> None:
    response = uploaded(address, name)
    reply = ask(address, response.json()[0]) if response.is_success else "event: error"
    assert "event: error" in reply and "What?" not in reply


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../etc/passwd", __file__])
def test_files_that_were_not_uploaded_are_unreachable(address: str, path: str) -> None:
    assert "event: error" in ask(address, path)
    assert not CLIENT.get(f"{address}/gradio_api/file={path}").is_success


def test_a_video_over_the_size_limit_is_refused(address: str) -> None:
    assert uploaded(address, "large.mp4", bytes(2 << 20)).status_code == 413


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}])
def test_requests_of_other_origins_are_refused(address: str, headers: dict[str, str]) -> None:
    for path in ("/", "/config", "/gradio_api/upload"):
        assert CLIENT.post(f"{address}{path}", headers=headers).status_code == 403
    assert CLIENT.get(f"{address}/config", headers={"Origin": address}).is_success


def test_the_server_listens_on_localhost_and_refuses_a_port_in_use(address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    assert address.startswith("http://127.0.0.1:")
    with pytest.raises(SevilaError, match=f"port {port} of 127.0.0.1 is in use"), ask_server.served(answer, port, 1):
        pass


def test_the_page_answers_about_a_video_without_requests_to_other_hosts(demo: Path, tmp_path: Path) -> None:
    weights = [f"{BLIP2}={demo / 'tiny-blip2'}"]
    small = ["sample_frames.size=28", "sample_frames.frames=8"]
    context = RunContext.of(Store(tmp_path / "store"), vars(ExecutionOptions()) | {"device": "cpu"})

    def answer_with_pipeline(video: Path, question: str, options: Sequence[str]) -> str:
        run = ask_video(AskRequest(video, question, options, weights, settings=small), context)
        return answer_page(run, answer_of(run))

    requests: list[str] = []
    with ask_server.served(answer_with_pipeline, 0, upload_megabytes=10) as address, chromium() as browser:
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.locator("input[type=file]").set_input_files(min((demo / "videos").iterdir()))
        page.get_by_label("Remove").or_(page.get_by_label("Clear")).first.wait_for()
        page.get_by_label("Question").fill("What <i>moves</i>?")
        page.get_by_label("Options, one per line").fill("a dog\na bag")
        page.get_by_role("button", name="Ask", exact=True).click()
        frame = page.frame_locator("iframe[title=answer]")
        frame.get_by_text("What <i>moves</i>?").first.wait_for()
        assert frame.locator("img").count() == 8 and frame.get_by_text("a bag").count()
        page.get_by_label("Question").fill("")
        page.get_by_role("button", name="Ask", exact=True).click()
        page.get_by_text("a video and a question are needed").first.wait_for()
    gc.collect()
    outside = [url for url in requests if not url.startswith((address, "blob:", "data:", "about:"))]
    assert requests and not outside


def test_ask_serve_waits_at_its_address_and_takes_no_video(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    waited = threading.Event()
    monkeypatch.setattr(ask_server, "wait", waited.set)
    assert main(["ask", "--serve", "--port", "7871", "--store", str(tmp_path / "store")]) == 0
    assert waited.is_set() and "http://127.0.0.1:7871" in capsys.readouterr().out
    assert main(["ask", "a.mp4", "Who?", "--serve", "--store", str(tmp_path / "store")]) == 1
    assert "takes no video" in capsys.readouterr().err
    assert main(["ask", "--store", str(tmp_path / "store")]) == 1
    assert "--serve" in capsys.readouterr().err
    gc.collect()
