"""`sevila ask`: one question about one video, or a page to ask on."""

from __future__ import annotations

import tempfile
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, Token

from cache.errors import SevilaError
from cache.printable import printable, printable_lines
from cli.options import (
    PLACE_GROUP,
    AsJson,
    ExecutionOptions,
    Inference,
    OutputFile,
    PlaceOption,
    Port,
    Positive,
    SettingsOption,
    Text,
    Texts,
    Where,
)
from cli.terminal import RED, YELLOW, print_json, print_last, print_text

if TYPE_CHECKING:
    from reports.ask_answer import AskAnswer
    from reports.ask_run import AskRun


@Parameter(name="*", group=PLACE_GROUP)
@dataclass(frozen=True, kw_only=True)
class AnsweringWeights:
    """Weights of the backbone, the Localizer and the Answerer.

    Attributes:
        weights: as for `sevila run`; or demo: the tiny backbone that `sevila demo` has trained in the store
        localizer: trained weights in the store, by id or its beginning; default: the released ones, or BLIP-2's own
        answerer: likewise
        download: download weights without a configured place from the Hugging Face Hub (docs/weights.md)
    """

    weights: PlaceOption = ()
    localizer: Annotated[str, Parameter(metavar="ID")] = ""
    answerer: Annotated[str, Parameter(metavar="ID")] = ""
    download: bool = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Where to write the answer as a page, or a served page for questions.

    Attributes:
        output: write a page with the frames to this file
        in_browser: write the page, and open it in a browser
        serve: serve a page on 127.0.0.1 for videos and questions, until Ctrl-C
        port: port of the served page
        upload_megabytes: size limit for a video on the served page
    """

    output: OutputFile = None
    in_browser: Annotated[bool, Parameter("--open")] = False
    serve: bool = False
    port: Port = 7860
    upload_megabytes: Positive = 1000


def _video(_: Any, tokens: Sequence[Token]) -> Path:
    video = tokens[0].value
    if "://" in video:
        raise ValueError(f"{video} is an address; expected a file or folder on this machine: download it first")
    if not video:
        raise ValueError("expected a video, not an empty name")
    return Path(video)


def ask(
    video: Annotated[Path | None, Parameter(converter=_video)] = None,
    question: Text | None = None,
    /,
    *,
    options: Annotated[Texts, Parameter("--option", metavar="TEXT")] = (),
    answering: AnsweringWeights = AnsweringWeights(),
    settings: SettingsOption = (),
    page: PageOptions = PageOptions(),
    inference: Inference = Inference(),
    as_json: AsJson = False,
    where: Where,
) -> int:
    """Ask one question about one video.

    sevila ask walk.mp4 "What does the man carry?" --option "a bag" --option "a dog" --weights demo

    sevila ask --serve

    Args:
        video: a video, or a folder of numbered images
        question: the question
        options: an answer to choose from (repeatable); without options, the answer is free text
    """
    from pipeline.engine.stage import RunContext
    from reports.ask_answer import answer_of, answer_text
    from reports.ask_run import AskRequest, NoWeightsError, ask_video

    context = RunContext.of(where.open(), vars(ExecutionOptions()) | inference.as_options())

    def run_question(video: Path, question: str, options: Sequence[str]) -> AskRun:
        return ask_video(AskRequest(video, question, options, settings=list(settings), **vars(answering)), context)

    if page.serve:
        if video or options:
            raise SevilaError("--serve takes no video, question or --option: give them on the page")
        return _serve(run_question, page)
    if video is None or not question:
        raise SevilaError("a video and a question are required: sevila ask VIDEO QUESTION, or --serve for a page")
    try:
        run = run_question(video, question, list(options))
    except NoWeightsError as error:
        print_last(printable_lines([f"error: {printable(str(error))}", *error.hints]), RED)
        return 1
    answer = answer_of(run)
    print_json(answer.as_dict()) if as_json else print_text(answer_text(answer))
    if page.output or page.in_browser:
        _show(run, answer, page, quiet=as_json)
    return 1 if answer.reason else 0


def _serve(ask: Callable[[Path, str, Sequence[str]], AskRun], page: PageOptions) -> int:
    from pipeline.loaded_models import Models, keeping_models
    from reports.ask_answer import answer_of
    from reports.ask_page import answer_page
    from reports.ask_server import served, wait

    models = Models()

    def answer(video: Path, question: str, options: Sequence[str]) -> str:
        with keeping_models(models):
            run = ask(video, question, options)
        return answer_page(run, answer_of(run))

    with served(answer, page.port, page.upload_megabytes) as address:
        print_text(f"{address}  (Ctrl-C stops the server)")
        if page.in_browser:
            _open(address)
        wait()
    return 0


def _show(run: AskRun, answer: AskAnswer, page: PageOptions, quiet: bool) -> None:
    from cache.files import write_for_user
    from reports.ask_page import answer_page

    path = page.output or Path(tempfile.mkdtemp(prefix="sevila-ask-")) / "answer.html"
    write_for_user(path, answer_page(run, answer).encode())
    print_text(f"\npage: {path}") if not quiet else None
    if page.in_browser:
        _open(path.absolute().as_uri())


def _open(address: str) -> None:
    if not webbrowser.open(address):
        print_last(f"cannot open a browser; the page is at {printable(address)}", YELLOW)
