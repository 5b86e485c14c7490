"""The door of Prefect's server on this machine: who may ask it and from where, and Prefect's own client of it."""

from __future__ import annotations

import os
import secrets
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cache.errors import SevilaError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

HOST = "127.0.0.1"
PATIENCE_SECONDS = 180.0


class PrefectApi:
    """Where the server is, with a password that is another one at every start."""

    def __init__(self, port: int, password: str = "") -> None:
        self.page = f"http://{HOST}:{port}"
        self.url = f"{self.page}/api"
        self.password = password or f"sevila:{secrets.token_urlsafe(32)}"

    @contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        """Yield Prefect's client of the server, whatever the environment and profiles say; its errors are httpx's."""
        from prefect.client.orchestration import SyncPrefectClient
        from prefect.settings import PREFECT_CLIENT_CSRF_SUPPORT_ENABLED, temporary_settings

        # Not through a proxy that the environment names: it would learn the password.
        http = {"trust_env": False, "timeout": PATIENCE_SECONDS}
        with (
            temporary_settings({PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: True}),
            SyncPrefectClient(self.url, auth_string=self.password, httpx_settings=http) as client,
        ):
            yield client

    def of_clients(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the variables with which a process that has this environment may ask the server, past any proxy."""
        before = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
        no_proxy = before if before.strip() == "*" else ",".join(filter(None, [before, HOST, "localhost"]))
        return {
            "PREFECT_API_URL": self.url,
            "PREFECT_API_AUTH_STRING": self.password,
            "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
            "DO_NOT_TRACK": "1",  # no telemetry
            "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
            "no_proxy": no_proxy,
            "NO_PROXY": no_proxy,
        }

    def of_server(self) -> dict[str, str]:
        """Return the variables that make the server refuse requests without the password, and other sites' pages."""
        doors = {"CSRF_PROTECTION_ENABLED": "true", "CORS_ALLOWED_ORIGINS": self.page}
        # In both of Prefect's spellings: the one that is not set here would be taken from the environment or a profile, and win.
        return (
            {f"PREFECT_SERVER_{api}{name}": value for name, value in doors.items() for api in ("API_", "")}
            | {
                "PREFECT_SERVER_API_AUTH_STRING": self.password,
                "PREFECT_SERVER_UI_API_URL": "/api",  # of where the page came from, by whatever name or tunnel
                "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",  # so that `--watch` shows the log, and in it why a run failed
                "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "3600",  # a piece that waits for a free GPU is not late
            }
        )


def check_private(home: Path) -> None:
    """Raise `SevilaError` where others may change what lies in Prefect's folder: its database, and what a shell is to read."""
    status = home.stat()
    if status.st_uid != os.geteuid():
        raise SevilaError(
            f"{home}: belongs to another user (id {status.st_uid}); set PREFECT_HOME to a folder of your own"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        others = "every user of this machine" if status.st_mode & stat.S_IWOTH else "its group"
        raise SevilaError(
            f"{home}: {others} may write there; `chmod go-w {shlex.quote(str(home))}`, or set PREFECT_HOME to one of your own"
        )


def write_for_shells(path: Path, variables: Mapping[str, str]) -> None:
    """Write what a shell is to `source`, for nobody else to read."""
    write_for_user_alone(path, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))


def write_for_user_alone(path: Path, text: str) -> None:
    """Write a new file, in the place of a former one, for nobody else to read."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
