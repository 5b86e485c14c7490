"""A local web page to upload a video and ask a question about it: `sevila ask --serve`, built with Gradio."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cache.errors import SevilaError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HOST = "127.0.0.1"
SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
LONGEST_QUESTION, LONGEST_OPTIONS = 2000, 10_000  # characters
Answer = Callable[[Path, str, Sequence[str]], str]  # (video, question, options) -> HTML page; raises SevilaError


@contextmanager
def served(answer: Answer, port: int, upload_megabytes: int) -> Iterator[str]:
    """Serve the page on 127.0.0.1 while the block runs, and yield its address; one question is answered at a time.

    The server accepts requests only from its own pages and loads nothing from the network. Uploads are deleted at the end.

    Args:
        port: TCP port; 0 for any free port.
        upload_megabytes: Larger videos are refused.

    Raises:
        SevilaError: Gradio is not installed, or the port is in use.
    """
    with TemporaryDirectory(prefix="sevila-ask-") as folder:
        # Gradio reads these on import: no usage statistics, no version check, uploads in our folder.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        try:
            import gradio
        except ImportError as error:
            raise SevilaError('the page needs Gradio: pip install "sevila-pipeline[serve]"') from error
        from starlette.middleware import Middleware

        page = _page(answer, Path(folder))
        try:
            _, address, _ = page.launch(
                server_name=HOST,
                server_port=port or None,
                max_file_size=upload_megabytes << 20,
                app_kwargs={"middleware": [Middleware(OwnPagesOnly)]},
                # The default theme loads its fonts from the network.
                theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
                footer_links=[],
                **{"share": False, "ssr_mode": False, "mcp_server": False, "enable_monitoring": False, "pwa": False},
                **{"prevent_thread_lock": True, "quiet": True, "inbrowser": False, "show_error": True},
            )
        except OSError as error:
            raise SevilaError(f"port {port} of {HOST} is in use; choose another with --port") from error
        try:
            yield address
        finally:
            page.close(verbose=False)


def wait() -> None:
    """Block until Ctrl-C is pressed."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return


class OwnPagesOnly:
    """Middleware that refuses requests of another origin, and requests under another host name (DNS rebinding)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or answer it with status 403."""
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        headers = Headers(scope=scope) if scope["type"] in ("http", "websocket") else Headers()
        host = headers.get("host", HOST)
        is_here = host.rsplit(":", 1)[0] in (HOST, "localhost")
        if is_here and headers.get("origin", f"http://{host}") == f"http://{host}":
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse("only pages of this server may send requests\n", 403)(scope, receive, send)


def _page(answer: Answer, folder: Path) -> Any:
    import gradio

    def ask(upload: str | None, question: str, options: str) -> str:
        try:
            return _framed(answered_upload(answer, folder, upload, question, options))
        except SevilaError as error:
            lines = [str(error), *getattr(error, "hints", ())]
            raise gradio.Error(escape("\n".join(lines)), duration=None, print_exception=False) from error

    with gradio.Blocks(title="SeViLA", analytics_enabled=False) as page:
        gradio.Markdown("# Ask about a video")
        upload = gradio.File(label="Video", file_types=list(SUFFIXES), type="filepath")
        question = gradio.Textbox(label="Question", max_length=LONGEST_QUESTION)
        options = gradio.Textbox(
            label="Options, one per line; leave empty for a free-text answer", lines=4, max_length=LONGEST_OPTIONS
        )
        button, shown = gradio.Button("Ask", variant="primary"), gradio.HTML()
        button.click(ask, [upload, question, options], shown, concurrency_limit=1, api_name="ask")
    return page


def answered_upload(answer: Answer, folder: Path, upload: str | None, question: str, options: str) -> str:
    """Answer a question about a copy of the upload, named by us; raises `SevilaError` if it cannot be asked."""
    if not upload or not question.strip():
        raise SevilaError("a video and a question are needed")
    suffix = Path(upload).suffix.lower()
    if suffix not in SUFFIXES:
        raise SevilaError(f"{Path(upload).name}: not the name of a video; expected one of {', '.join(SUFFIXES)}")
    with TemporaryDirectory(dir=folder) as copy_folder:
        video = Path(copy_folder) / f"video{suffix}"
        shutil.copyfile(upload, video)
        return answer(video, question.strip(), [line.strip() for line in options.splitlines() if line.strip()])


def _framed(page: str) -> str:
    return f'<iframe title="answer" sandbox srcdoc="{escape(page)}" style="width:100%;height:80vh;border:0"></iframe>'
