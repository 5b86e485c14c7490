"""Access control of the `sevila up` server and error messages of its runs. test_flows.py runs these tests on its server."""

from __future__ import annotations

import base64
import stat
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from pipeline.video.thumbnails import thumbnail
from tests.browser import chromium
from tests.prefect_server import PATIENCE_SECONDS, PrefectServer
from workers.up import LOG

FOREIGN = "http://evil.example"


def refusal_status(prefect: PrefectServer, path: str, headers: dict[str, str], body: bytes | None = None) -> int:
    """Return the status of a refused request, 0 if it is accepted."""
    request = urllib.request.Request(f"{prefect.api.url}/{path}", body, headers)
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    return 0


def test_requests_without_the_password_are_refused(prefect: PrefectServer) -> None:
    json_body = {"Content-Type": "application/json"}
    wrong = {"Authorization": "Basic YWRtaW46YWRtaW4="}
    assert refusal_status(prefect, "deployments/name/sevila/full-chain", {}) == 401
    assert refusal_status(prefect, "deployments/name/sevila/full-chain", wrong) == 401
    assert refusal_status(prefect, "csrf-token?client=somebody", {}) == 401
    id = prefect.request("deployments/name/sevila/full-chain")["id"]
    forged_run = b'{"name": "forged"}'
    for headers in (json_body, json_body | wrong, json_body | {"Origin": FOREIGN}):
        assert refusal_status(prefect, f"deployments/{id}/create_flow_run", headers, forged_run) in (401, 403)
    forged = {"Prefect-Csrf-Token": "x", "Prefect-Csrf-Client": "y"}
    assert refusal_status(prefect, f"deployments/{id}/create_flow_run", json_body | forged, b"{}") == 403
    assert prefect.flow_runs("forged") == []


def test_cross_origin_requests_are_refused(prefect: PrefectServer) -> None:
    """A browser sends a preflight request first and reads an answer only if the server allows its origin."""
    preflight = {
        "Origin": FOREIGN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    url = f"{prefect.api.url}/flow_runs/filter"
    open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    with pytest.raises(urllib.error.HTTPError) as error:
        open_url(urllib.request.Request(url, headers=preflight, method="OPTIONS"), timeout=PATIENCE_SECONDS)
    error.value.close()
    assert error.value.code == 400 and error.value.headers["Access-Control-Allow-Origin"] is None
    own = preflight | {"Origin": prefect.api.page}
    with open_url(urllib.request.Request(url, headers=own, method="OPTIONS"), timeout=PATIENCE_SECONDS) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == prefect.api.page
    with open_url(f"{prefect.api.page}/ui-settings", timeout=PATIENCE_SECONDS) as answer:
        settings = answer.read().decode()
    assert '"auth":"BASIC"' in settings and '"api_url":"/api"' in settings and '"csrf_enabled":true' in settings


def test_the_password_is_only_in_a_private_file(prefect: PrefectServer) -> None:
    password = prefect.environment["PREFECT_API_AUTH_STRING"]
    assert stat.S_IMODE(prefect.for_shells.stat().st_mode) == 0o600
    printed = prefect.log.read_text()
    assert f"source {prefect.for_shells}" in printed and f"their log is {prefect.for_shells.parent / LOG}" in printed
    assert len([line for line in printed.splitlines() if "uvicorn" in line.lower() or "PREFECT" in line]) <= 1
    secret = password.split(":")[1]
    assert len(secret) > 30 and secret not in prefect.all_logs()
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(secret.encode() in line for line in lines)


def test_server_files_are_private(prefect: PrefectServer) -> None:
    files = list(prefect.for_shells.parent.glob("prefect.db*"))
    assert files and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_sourced_shell_runs_a_deployment_without_the_proxy_and_shows_the_failure(
    prefect: PrefectServer,
) -> None:
    places = {"annotations": "/none\x1b[31m\nhere"}
    done = prefect.run("sevila-stage/rerun", "failed", stage="list_questions", recipe="demo", places=places)
    state = prefect.flow_run("failed")["state"]
    assert (done.returncode, state["type"]) == (1, "FAILED"), done.stdout + done.stderr
    where = r"should lie at /none\x1b[31m\nhere, but nothing is there"
    assert where in state["message"] and "\n" not in state["message"]
    output = " ".join(done.stdout.split()).replace("\\\\", "\\")  # the terminal breaks lines
    assert "Finished in state Failed(" in output and "but nothing is there" in output
    lines = prefect.until(lambda: [line for line in prefect.log_lines("failed") if "Finished in state" in line])
    assert len(lines) == 1 and not any("Traceback" in line for line in prefect.log_lines("failed"))
    assert "FailedRun" not in prefect.all_logs()  # (the server may speak of a busy database)
    assert "\x1b" not in done.stdout + lines[0]


def test_prefect_pages_show_embedded_pictures(prefect: PrefectServer) -> None:
    picture = f"data:image/webp;base64,{thumbnail(np.zeros((28, 28, 3), np.uint8), (80, 60), 50)}"
    text = f"| 1.0 s |\n| --- |\n| ![keyframe]({picture}) |\n\n![trend]({picture})"
    id = prefect.request("artifacts/", {"key": "pictures", "type": "markdown", "data": text})["id"]
    password = base64.b64encode(prefect.environment["PREFECT_API_AUTH_STRING"].encode()).decode()
    with chromium() as browser:
        page = browser.new_page()
        page.add_init_script(f"localStorage.setItem('prefect-password', {password!r})")
        for interface in ("", "/v2"):  # Prefect 3.8 has two
            page.goto(f"{prefect.api.page}{interface}/artifacts/artifact/{id}")
            for alt in ("keyframe", "trend"):
                page.wait_for_function("alt => document.querySelector(`img[alt=${alt}]`)?.naturalWidth == 80", arg=alt)
