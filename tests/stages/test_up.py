"""`sevila up` without a server; test_flows.py tests what it starts."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch
from filelock import FileLock

from cli import main
from workers.prefect_api import PrefectApi
from workers.up import gpus


def test_help_does_not_import_prefect() -> None:
    lines = ["import contextlib, sys, cli", "with contextlib.suppress(SystemExit):", "    cli.main(['up', '--help'])"]
    code = "\n".join([*lines, "assert 'prefect' not in sys.modules"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--gpu-workers" in done.stdout, done.stderr


@pytest.fixture
def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_a_second_up_on_the_same_folder_is_refused(
    tmp_path: Path, free_port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "prefect").mkdir(mode=0o700)
    with FileLock(tmp_path / "prefect" / "sevila-up.lock"):
        assert main(["up", "--port", free_port, "--store", str(tmp_path / "store")]) == 1
    assert f"another `sevila up` uses {tmp_path / 'prefect'}" in capsys.readouterr().err


def test_a_taken_port_or_an_invalid_store_is_an_error_before_anything_starts(
    tmp_path: Path, free_port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "store").write_text("")
    assert main(["up", "--port", free_port, "--store", str(tmp_path / "store")]) == 1
    assert "is a file; expected a folder" in capsys.readouterr().err
    assert main(["up", "--port", free_port, "--store", str(tmp_path / "new"), "--below", str(tmp_path / "none")]) == 1
    assert "none is not a store" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(free_port)))
        taken.listen()
        assert main(["up", "--port", free_port]) == 1
    assert f"port {free_port} of 127.0.0.1 is taken" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "prefect").iterdir()} <= {"sevila-up.lock"}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_prefect_folder_writable_by_others_is_refused_and_left_empty(
    mode: int, tmp_path: Path, free_port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "prefect").mkdir(mode=0o700)
    (tmp_path / "prefect").chmod(mode)
    (tmp_path / "store").write_text("")  # the next check would refuse this
    assert main(["up", "--port", free_port, "--store", str(tmp_path / "store")]) == 1
    assert f"may write there; `chmod go-w {tmp_path / 'prefect'}`" in capsys.readouterr().err
    assert not list((tmp_path / "prefect").iterdir())


def test_a_prefect_folder_of_another_user_is_refused(
    tmp_path: Path, free_port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path("/usr")
    if os.geteuid() == 0:
        home = tmp_path / "prefect"
        home.mkdir(mode=0o700)
        os.chown(home, 12345, -1)
    monkeypatch.setenv("PREFECT_HOME", str(home))
    (tmp_path / "store").write_text("")
    assert main(["up", "--port", free_port, "--store", str(tmp_path / "store")]) == 1
    assert f"{home}: belongs to another user (id {home.stat().st_uid})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("visible", "n_gpus", "names"),
    [(None, 2, ["0", "1"]), ("2, 5", 2, ["2", "5"]), ("GPU-8a,7", 1, ["GPU-8a"]), ("", 0, []), (None, 0, [])],
)
def test_workers_use_only_visible_gpus(
    visible: str | None, n_gpus: int, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)  # what the driver reports
    assert gpus() == names


SETTINGS = """
import json, os, sys
from prefect.settings import Settings
for variables in json.loads(sys.argv[1]):
    os.environ.update(variables)
    api = Settings().server.api
    print(json.dumps([api.cors_allowed_origins, api.csrf_protection_enabled]))
    for name in variables:
        del os.environ[name]
"""


def test_prefect_settings_do_not_open_the_server_to_other_sites(tmp_path: Path) -> None:
    wide = {"CORS_ALLOWED_ORIGINS": "*", "CSRF_PROTECTION_ENABLED": "false"}
    server, environments = PrefectApi(4200), []
    for api in ("API_", ""):
        spelled = {f"PREFECT_SERVER_{api}{name}": value for name, value in wide.items()}
        home = tmp_path / f"home{api}"
        home.mkdir()
        lines = ['active = "wide"', "[profiles.wide]", *(f'{name} = "{value}"' for name, value in spelled.items())]
        (home / "profiles.toml").write_text("\n".join(lines))
        environments += [spelled | {"PREFECT_HOME": str(tmp_path)} | server.of_server()]
        environments += [{"PREFECT_HOME": str(home)} | server.of_server()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-c", SETTINGS, json.dumps(environments)]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[server.page, True]] * len(environments)


def test_a_refusal_by_the_server_is_an_error_with_its_reason(
    tmp_path: Path, free_port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        httpx.Response(422, text="not enabled", request=httpx.Request("GET", "http://x/api/csrf")).raise_for_status()

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setattr("workers.up._up", refuse)
    assert main(["up", "--port", free_port]) == 1
    assert capsys.readouterr().err == (
        "error: Prefect's server refused GET http://x/api/csrf: 422 Unprocessable Entity: not enabled\n"
    )


def test_only_random_run_names_are_replaced() -> None:
    from prefect.utilities.names import generate_slug

    from workers.pages import _is_random_name, run_title

    assert all(_is_random_name(generate_slug(2)) for _ in range(50))
    assert not any(map(_is_random_name, ("my-run", "first", "nextqa-full", "two words", "")))
    assert run_title("nextqa full", ["chain.kind=full", "select_keyframes.k=8"], 0) == (
        "nextqa full, select_keyframes.k=8, seed 0"
    )
