"""Child processes: the ranks of a distributed training, which stop together, or one process for one function call.

torch's launchers report the process that fails first, which may be a peer of the one that died, and show errors as tracebacks.
These report the root cause, as a sentence.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from contextvars import copy_context
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from types import SimpleNamespace
from typing import Any

from cache.errors import OF_THE_MACHINE, MachineError, SevilaError, sentence
from cache.printable import keep_logs_printable

log = logging.getLogger("sevila")

GRACE_SECONDS = 1.0
MAX_TRACEBACK_LETTERS = 10_000  # fits into a pipe's buffer, so that a process can exit before the parent reads
MAX_TMPDIR_BYTES = 60  # the fork server creates a socket there, whose path is limited to 104 or 108 bytes
# Slow imports. Safe to fork: OpenBLAS restarts its threads after a fork, and torch starts its own on first use.
PRELOADED = ["torch", "transformers.models.blip_2.modeling_blip_2", "scipy.stats"]
DEATH, REFUSAL, BUG, RESULT = range(4)  # outcomes; of several failures, the least is nearest to the root cause
ERRORS = {DEATH: MachineError, REFUSAL: SevilaError, BUG: RuntimeError}


def start_processes(n_processes: int, work: Callable[..., Any], arguments: tuple[Any, ...], name: str) -> list[Any]:
    """Call `work(*arguments)` in `n_processes` new processes, with the environment that torch.distributed and Accelerate read.

    Returns:
        The return values, by rank.

    Raises:
        SevilaError: a process raised it; the others are killed.
        MachineError: a process died or had an error of the machine (a full disk); the others are killed.
        RuntimeError: a process failed otherwise, with its traceback; the others are killed.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": n_processes,
        "LOCAL_WORLD_SIZE": n_processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    loopback = os.environ.get("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    with ExitStack() as stack:
        members = []
        for rank in range(n_processes):
            variables = {**shared, "RANK": rank, "LOCAL_RANK": rank, "GLOO_SOCKET_IFNAME": loopback}
            environment = {key: str(value) for key, value in variables.items()}
            member = _Child(context, environment, None if rank == 0 else logging.ERROR, daemon=True)
            stack.callback(member.end)
            members.append(member)
        for member in members:
            member.send(work, arguments)
        return _results_of_all(members, name)


def run_in_subprocess(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call `work(*arguments)` in a new process, which isolates peak memory and crashes; return the result.

    Raises:
        SevilaError: `work` raised it.
        MachineError: the process died or had an error of the machine (a full disk).
        RuntimeError: `work` failed otherwise, with its traceback.
    """
    child = _Child(_clean_context(), os.environ, None, daemon=False)
    try:
        child.send(work, arguments)
        kind, value = child.reply("its process {how}")
    finally:
        child.end()
    if kind != RESULT:
        raise ERRORS[kind](value)
    return value


class _Child:
    """A child process: it receives a function call through a pipe, and sends back its outcome and its log records."""

    def __init__(self, context: Any, environment: Mapping[str, str], level: int | None, daemon: bool) -> None:
        """Start it; `level` is its log level, None for that of this process."""
        if level is None:
            level = logging.getLogger("sevila").getEffectiveLevel()
        self._connection, child_connection = context.Pipe()
        logs, self._listener = _receive_logs(context)
        arguments = (child_connection, logs, dict(environment), level)
        self.process = context.Process(target=_serve, args=arguments, daemon=daemon)
        self.process.start()
        child_connection.close()
        logs.close()

    def send(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Send the call. As arguments of the process it could block the parent for ever, if the child died before reading."""
        with suppress(ConnectionError):  # the child is dead, which `reply` reports
            self._connection.send((work, arguments))

    def reply(self, death: str) -> tuple[int, Any]:
        """Wait for (outcome, value); if it died without a reply, the value is the template `death` with `{how}` filled in."""
        wait([self._connection, self.process.sentinel])
        try:
            if self._connection.poll():
                kind, value = self._connection.recv()
                return kind, value
        except (EOFError, OSError):  # OSError: it died in the middle of its reply
            pass
        self.process.join()
        code = self.process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return DEATH, death.format(how=how + (" (out of memory?)" if code == -signal.SIGKILL else ""))

    def end(self) -> None:
        """Kill it if it still runs."""
        self.process.kill()
        self.process.join()
        self._connection.close()
        self._listener.join(GRACE_SECONDS)  # grandchildren may still hold the pipe open


def _results_of_all(members: list[_Child], name: str) -> list[Any]:
    running = {member.process.sentinel for member in members}
    while running:
        running -= set(wait(list(running)))
        for member in members:
            if member.process.sentinel not in running:
                member.process.join()  # the exit status is known a moment after the sentinel is ready
        if any(member.process.exitcode for member in members):
            # The failure may be that of a process that lost a dead peer: wait until the peer's exit is known, too.
            wait(list(running), timeout=GRACE_SECONDS)
            advice = "so the others were ended too; the last state is kept: the same command goes on from it"
            kind, text = min(
                member.reply(f"{name}: process {rank} of {len(members)} {{how}}, {advice}")
                for rank, member in enumerate(members, 1)
                if member.process.exitcode
            )
            raise ERRORS[kind](text)
    return [member.reply(f"{name}: a process {{how}}")[1] for member in members]


def _clean_context() -> Any:
    """Return a start method without inherited state: a fork server that has preloaded torch, or spawn if there can be none."""
    if len(os.fsencode(tempfile.gettempdir())) > MAX_TMPDIR_BYTES:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _serve(connection: Connection, logs: Connection, environment: dict[str, str], level: int) -> None:
    """Run the child process: receive a call, send its outcome, exit."""
    os.environ.update(environment)  # a fork server has that of its own start
    _send_logs(logs, level)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    status = 1
    try:
        work, arguments = connection.recv()
        value = work(*arguments)
        _leave_peers()
        connection.send((RESULT, value))
        status = 0
    except SevilaError as error:
        connection.send((REFUSAL, str(error)))
    except OSError as error:  # such as a full disk; a lost connection is only a consequence of a peer's failure
        bug = isinstance(error, ConnectionError) or error.errno not in OF_THE_MACHINE
        connection.send((BUG, _traceback()) if bug else (DEATH, sentence(error)))
    except BaseException:
        connection.send((BUG, _traceback()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # skips exit handlers: threads of the communication library would wait for dead peers


def _leave_peers() -> None:
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def _traceback() -> str:
    return f"a process failed:\n{traceback.format_exc()[-MAX_TRACEBACK_LETTERS:]}"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _receive_logs(context: Any) -> tuple[Connection, threading.Thread]:
    """Return a connection for `_send_logs` in a new process, and the thread that handles its records in this context."""
    receiver, sender = context.Pipe(duplex=False)
    listener = threading.Thread(target=copy_context().run, args=(_handle_all, receiver), daemon=True)
    listener.start()
    return sender, listener


def _send_logs(sender: Connection, level: int) -> None:
    """Send log records to the parent: those of `sevila` from `level` on, warnings of other loggers, and Python's warnings."""
    keep_logs_printable()
    queue: Any = SimpleNamespace(put_nowait=sender.send)  # the only method that QueueHandler calls
    # Replaces handlers that imports have installed, which would duplicate records.
    logging.getLogger().handlers = [QueueHandler(queue)]
    logging.getLogger("sevila").setLevel(level)
    logging.captureWarnings(True)


def _handle_all(receiver: Connection) -> None:
    with receiver:
        while True:
            try:
                record = receiver.recv()
            except (EOFError, OSError):  # the process has exited, perhaps in the middle of a record
                return
            except Exception as error:  # a record that cannot be unpickled: skip it
                log.warning("a log record of another process cannot be shown: %s", error)
                continue
            logging.getLogger(record.name).handle(record)
