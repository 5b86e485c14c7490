"""Access to the local Prefect server: its URL, authentication, client and private files."""

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
    """URL and credentials of the server; the password is generated at every start."""

    def __init__(self, port: int, password: str = "") -> None:
        self.page = f"http://{HOST}:{port}"
        self.url = f"{self.page}/api"
        self.password = password or f"sevila:{secrets.token_urlsafe(32)}"

    @contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        """Yield a client of this server, independent of environment and profiles; raises the errors of httpx."""
        from prefect.client.orchestration import SyncPrefectClient
        from prefect.settings import PREFECT_CLIENT_CSRF_SUPPORT_ENABLED, temporary_settings

        # No proxy from the environment: the proxy would see the password.
        http = {"trust_env": False, "timeout": PATIENCE_SECONDS}
        with (
            temporary_settings({PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: True}),
            SyncPrefectClient(self.url, auth_string=self.password, httpx_settings=http) as client,
        ):
            yield client

    def of_clients(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that a process with this environment needs to reach the server, bypassing any proxy."""
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
        """Return the server's variables, which make it reject requests without the password and from other origins."""
        protection = {"CSRF_PROTECTION_ENABLED": "true", "CORS_ALLOWED_ORIGINS": self.page}
        # In both of Prefect's spellings: the other one, set in the environment or a profile, would take precedence.
        return {f"PREFECT_SERVER_{api}{name}": value for name, value in protection.items() for api in ("API_", "")} | {
            "PREFECT_SERVER_API_AUTH_STRING": self.password,
            "PREFECT_SERVER_UI_API_URL": "/api",  # relative to the page, for tunnels and other host names
            "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",  # for `--watch`, which shows the log
            "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "3600",  # a piece that waits for a free GPU is not late
        }


def check_private(home: Path) -> None:
    """Raise `SevilaError` if other users can write to Prefect's folder, which has its database and a file to `source`."""
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
    """Write variables as a shell script to `source`, readable by the user only."""
    write_for_user_alone(path, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))


def write_for_user_alone(path: Path, text: str) -> None:
    """Write a new file, replacing an existing one, readable by the user only."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
