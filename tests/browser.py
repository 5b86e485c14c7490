"""Chromium for the tests of web pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser; skip the test if none is installed."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class WatchedPage:
    """A page opened from a folder, with the URLs it requested and its console and error messages."""

    def __init__(self, browser: Any, folder: Path, fragment: str = "", **context: Any) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.folder = folder
        self.page = browser.new_page(**context)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.open(fragment)

    def open(self, fragment: str) -> None:
        """Load the page again and wait until its examples are drawn."""
        self.page.goto("about:blank")
        self.page.goto(f"{(self.folder / 'index.html').as_uri()}{fragment}")
        self.page.wait_for_selector('#examples[aria-busy="false"]')

    def texts(self, selector: str) -> list[str]:
        """Return the text of each matching element."""
        return [" ".join(text.split()) for text in self.page.locator(selector).all_inner_texts()]
