"""Checks of Prefect for `sevila doctor`: its version, its folder, and the server that flows would use."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from reports.findings import Finding
from workers.prefect_api import check_private

OF_PREFECT = "Prefect"
HEALTH_SECONDS = 3.0


def prefect_findings() -> Iterator[Finding]:
    """Yield whether `sevila up` can start, and whether the configured server answers; only the flows need Prefect."""
    try:
        version = importlib.metadata.version("prefect")
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            OF_PREFECT, "note", "not installed; `sevila run` needs none", "pip install prefect, for `sevila up`"
        )
        return
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    yield Finding(OF_PREFECT, "ok", f"prefect {version}, its folder {home}{'' if home.exists() else ' (not made yet)'}")
    if home.exists():
        check_private(home)
    url = os.environ.get("PREFECT_API_URL", "")
    if not url:
        yield Finding(OF_PREFECT, "ok", "no server is named (PREFECT_API_URL); `sevila up` starts one of its own")
        return
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=HEALTH_SECONDS):
            yield Finding(OF_PREFECT, "ok", f"the server at {url} answers")
    except (URLError, OSError, ValueError) as error:
        fix = "start it, or unset PREFECT_API_URL"
        yield Finding(OF_PREFECT, "note", f"the server at {url} does not answer: {error}", fix)
