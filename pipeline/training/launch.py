"""Processes of this machine that work for this one: those of a training, which end together, or one for one call.

torch's own launchers report whichever process fails first, which may be the one that lost its peer and not the one that died, and
an error as its traceback; a user is to read the cause in a sentence.
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
TRACEBACK_LETTERS = 10_000  # a pipe holds more than this, so that nobody has to read before a process ends
LONGEST_TMPDIR = 60  # bytes; the server that forks has a socket in it, whose path a system bounds at 104 or 108
# What takes seconds to import. OpenBLAS starts its threads again after a fork, torch its own with the first work.
PRELOADED = ["torch", "transformers.models.blip_2.modeling_blip_2", "scipy.stats"]
DEATH, REFUSAL, BUG, RESULT = range(4)  # why a process ended, the nearest to the cause first; or that it has a result
ERRORS = {DEATH: MachineError, REFUSAL: SevilaError, BUG: RuntimeError}


def start_processes(n_processes: int, work: Callable[..., Any], arguments: tuple[Any, ...], name: str) -> list[Any]:
    """Call `work(*arguments)` in `n_processes` new processes whose environment gives torch and Accelerate their ranks.

    Returns:
        What each of them returned.

    Raises:
        SevilaError: one of them raised it; the others are ended.
        MachineError: one of them died, or the machine refused it something; likewise.
        RuntimeError: one of them failed otherwise, with its traceback.
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
    with ExitStack() as at_the_end:
        members = []
        for rank in range(n_processes):
            own = {"RANK": rank, "LOCAL_RANK": rank, "GLOO_SOCKET_IFNAME": loopback}
            environment = {key: str(value) for key, value in {**shared, **own}.items()}
            member = _Child(context, environment, None if rank == 0 else logging.ERROR, daemon=True)
            at_the_end.callback(member.end)
            members.append(member)
        for member in members:
            member.give(work, arguments)
        return _results_of_all(members, name)


def run_in_subprocess(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `work(*arguments)` returns, called in a process of its own: its peak memory is its own, and so is its death.

    Raises:
        SevilaError: `work` raised it.
        MachineError: its process died, or the machine refused it something.
        RuntimeError: it failed otherwise, with its traceback.
    """
    child = _Child(_clean_context(), os.environ, None, daemon=False)
    try:
        child.give(work, arguments)
        kind, value = child.reply("its process {how}")
    finally:
        child.end()
    if kind != RESULT:
        raise ERRORS[kind](value)
    return value


class _Child:
    """A process started here: what it logs is logged here, its work goes to it through a pipe, and its reply comes back."""

    def __init__(self, context: Any, environment: Mapping[str, str], level: int | None, daemon: bool) -> None:
        """Start it; `level` is that of what it logs, None for this process' own."""
        if level is None:
            level = logging.getLogger("sevila").getEffectiveLevel()
        self._connection, theirs = context.Pipe()
        logs, self._listener = _receive_logs(context)
        arguments = (theirs, logs, dict(environment), level)
        self.process = context.Process(target=_serve, args=arguments, daemon=daemon)
        self.process.start()
        theirs.close()
        logs.close()

    def give(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Send its work: not as arguments of the process, since one that dies before it reads them would block us for ever."""
        with suppress(ConnectionError):  # it is dead, which its reply says
            self._connection.send((work, arguments))

    def reply(self, death: str) -> tuple[int, Any]:
        """Wait for its reply, and return that; `death` with how it died in place of `{how}` where it died without one."""
        wait([self._connection, self.process.sentinel])
        try:
            if self._connection.poll():
                kind, value = self._connection.recv()
                return kind, value
        except (EOFError, OSError):  # the latter where it died in the middle of its reply
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
        self._listener.join(GRACE_SECONDS)  # what a process has started may still hold its end


def _results_of_all(members: list[_Child], name: str) -> list[Any]:
    running = {member.process.sentinel for member in members}
    while running:
        running -= set(wait(list(running)))
        for member in members:
            if member.process.sentinel not in running:
                member.process.join()  # its pipe closes a moment before its status is known
        if any(member.process.exitcode for member in members):
            # A process that lost its peer fails too, perhaps a moment before the peer is seen to have ended: the cause is wanted.
            wait(list(running), timeout=GRACE_SECONDS)
            then = "so the others were ended too; the last state is kept: the same command goes on from it"
            kind, text = min(
                member.reply(f"{name}: process {rank} of {len(members)} {{how}}, {then}")
                for rank, member in enumerate(members, 1)
                if member.process.exitcode
            )
            raise ERRORS[kind](text)
    return [member.reply(f"{name}: a process {{how}}")[1] for member in members]


def _clean_context() -> Any:
    """Return how to start a process as clean as a spawned one: from a server that has imported torch, where one can be had."""
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_TMPDIR:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _serve(connection: Connection, logs: Connection, environment: dict[str, str], level: int) -> None:
    """What a child does: its work, its reply, its end."""
    os.environ.update(environment)  # a server that forks was started with an older one
    _send_logs(logs, level)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    status = 1
    try:
        work, arguments = connection.recv()
        value = work(*arguments)
        _leave_peers()
        connection.send((RESULT, value))
        status = 0
    except SevilaError as error:  # a sentence for the user, which the parent raises
        connection.send((REFUSAL, str(error)))
    except OSError as error:  # a full disk, for one; but not a lost peer, whose own reason is wanted
        bug = isinstance(error, ConnectionError) or error.errno not in OF_THE_MACHINE
        connection.send((BUG, _traceback()) if bug else (DEATH, sentence(error)))
    except BaseException:
        connection.send((BUG, _traceback()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of the communication library would wait for peers that are gone


def _leave_peers() -> None:
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def _traceback() -> str:
    return f"a process failed:\n{traceback.format_exc()[-TRACEBACK_LETTERS:]}"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _receive_logs(context: Any) -> tuple[Connection, threading.Thread]:
    """Return the connection that a new process gives to `_send_logs`, and the thread that handles its records in this context."""
    receiver, sender = context.Pipe(duplex=False)
    listener = threading.Thread(target=copy_context().run, args=(_handle_all, receiver), daemon=True)
    listener.start()
    return sender, listener


def _send_logs(sender: Connection, level: int) -> None:
    """Send what this process logs from now on: of `sevila` from this level on, of others warnings, and Python's warnings."""
    keep_logs_printable()
    queue: Any = SimpleNamespace(put_nowait=sender.send)  # all that the handler asks of one
    # Only this one: what our imports have set up would say it a second time.
    logging.getLogger().handlers = [QueueHandler(queue)]
    logging.getLogger("sevila").setLevel(level)
    logging.captureWarnings(True)


def _handle_all(receiver: Connection) -> None:
    with receiver:
        while True:
            try:
                record = receiver.recv()
            except (EOFError, OSError):  # it has ended, perhaps in the middle of a record
                return
            except Exception as error:  # whatever a library put into a record: what comes after it is wanted
                log.warning("a line of another process cannot be shown: %s", error)
                continue
            logging.getLogger(record.name).handle(record)
