"""Several processes of one training on this machine, which find each other on 127.0.0.1 and end together; or one for one call."""

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
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from cache.errors import OF_THE_MACHINE, MachineError, SevilaError, sentence
from pipeline.training.child_logs import heard, tell

GRACE_SECONDS = 1.0
LONGEST_TMPDIR = 60  # bytes; the server that forks has a socket in it, whose path a system bounds at 104 or 108
# What takes seconds to import. OpenBLAS starts its threads again after a fork, torch its own with the first work.
PRELOADED = ["torch", "transformers.models.blip_2.modeling_blip_2", "scipy.stats"]
DEATH, REFUSAL, BUG, RESULT = range(4)  # why a process ended, the nearest to the cause first; or what it returns


def launch(n_processes: int, work: Callable[..., None], arguments: tuple[Any, ...], name: str) -> None:
    """Call `work(*arguments)` in `n_processes` new processes whose environment tells torch and Accelerate who they are.

    Raises:
        SevilaError: one of them raised it; the others are ended.
        MachineError: one of them died, or the machine refused it something; likewise.
        RuntimeError: one of them failed otherwise, with its traceback.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    level = logging.getLogger("sevila").getEffectiveLevel()
    members: list[tuple[BaseProcess, Connection]] = []
    listeners: list[threading.Thread] = []
    try:
        for rank in range(n_processes):
            ours, theirs = context.Pipe()
            environment: dict[str, int | str] = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": n_processes,
                "LOCAL_WORLD_SIZE": n_processes,
            }
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            values = {key: str(value) for key, value in environment.items()}
            logs, listener = heard(context)
            listeners.append(listener)
            process: BaseProcess = context.Process(target=_member, args=(theirs, logs, values, level), daemon=True)
            process.start()
            theirs.close()
            logs.close()
            members.append((process, ours))
        for _, connection in members:
            # Not as arguments of the process: one that dies before it has read them would leave us writing for ever.
            with suppress(ConnectionError):  # whoever is dead already is told of below
                connection.send((work, arguments))
        _wait_for_all(members, name)
    finally:
        for process, connection in members:
            process.kill()
            process.join()
            connection.close()
        for listener in listeners:
            listener.join(GRACE_SECONDS)  # what a process has started may still hold its end


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `work(*arguments)` returns, called in a process of its own: its peak memory is its own, and so is its death.

    Raises:
        SevilaError: `work` raised it.
        MachineError: its process died, or the machine refused it something.
        RuntimeError: it failed otherwise, with its traceback.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    level = logging.getLogger("sevila").getEffectiveLevel()
    logs, listener = heard(context)
    process = context.Process(target=_alone, args=(sender, logs, dict(os.environ), level, work, arguments))
    process.start()
    sender.close()
    logs.close()
    try:
        kind, told = receiver.recv()
    except (EOFError, OSError):  # the latter where it died in the middle of what it told
        process.join()
        code = process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        kind, told = DEATH, f"its process {how}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    finally:
        process.kill()
        process.join()
        receiver.close()
        listener.join(GRACE_SECONDS)
    if kind == RESULT:
        return told
    raise _error(kind, told)


def _context() -> Any:
    """Return how to start a process as clean as a spawned one: from a server that has imported torch, where one can be had."""
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_TMPDIR:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _alone(
    sender: Connection,
    logs: Connection,
    environment: dict[str, str],
    level: int,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(environment)  # the server that forks this was started with an older one
    tell(logs, level)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sender.send((RESULT, work(*arguments)))
    except SevilaError as error:
        sender.send((REFUSAL, str(error)))
    except OSError as error:
        sender.send(
            (DEATH, sentence(error)) if error.errno in OF_THE_MACHINE else (BUG, traceback.format_exc()[-10000:])
        )
    except BaseException:
        sender.send((BUG, traceback.format_exc()[-10000:]))


def _wait_for_all(members: list[tuple[BaseProcess, Connection]], name: str) -> None:
    running = {process.sentinel for process, _ in members}
    while running:
        running -= set(wait(list(running)))
        for process, _ in members:
            if process.sentinel not in running:
                process.join()  # its pipe closes a moment before its status is known
        if any(process.exitcode for process, _ in members if process.sentinel not in running):
            # Whoever lost its peer fails too, perhaps a moment before the peer is seen to have ended: the cause is wanted.
            wait(list(running), timeout=GRACE_SECONDS)
            who = f"{name}: process {{}} of {len(members)}"
            reasons = [_reason(*member, who.format(rank)) for rank, member in enumerate(members, 1)]
            distance, text = min(reason for reason in reasons if reason)
            raise _error(distance, text)


def _error(kind: int, told: str) -> Exception:
    return {DEATH: MachineError, REFUSAL: SevilaError, BUG: RuntimeError}[kind](told)


def _reason(process: BaseProcess, connection: Connection, who: str) -> tuple[int, str] | None:
    """Return why a process failed: it was killed, told the user why (a `SevilaError`), or left a traceback."""
    code = process.exitcode
    if not code:  # 0, or it still runs
        return None
    try:
        told: tuple[int, str] | None = connection.recv() if connection.poll() else None
    except (EOFError, ConnectionError):
        told = None
    if told is not None:
        return told
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return DEATH, f"{who} {how}, so the others were ended too; the last state is kept: the same command goes on from it"


def _member(connection: Connection, logs: Connection, environment: dict[str, str], level: int) -> None:
    os.environ.update(environment)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    tell(logs, level if environment["RANK"] == "0" else logging.ERROR)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    status = 0
    try:
        work, arguments = connection.recv()
        work(*arguments)
    except SevilaError as error:  # a sentence for the user, which the parent raises
        connection.send((REFUSAL, str(error)))
        status = 1
    except OSError as error:  # a full disk, for one; but not a lost peer, whose own reason is wanted
        bug = isinstance(error, ConnectionError) or error.errno not in OF_THE_MACHINE
        connection.send((BUG, _traceback()) if bug else (DEATH, sentence(error)))
        status = 1
    except BaseException:
        connection.send((BUG, _traceback()))
        status = 1
    if status == 0 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.stderr.flush()
    os._exit(status)  # threads of the communication library would wait for peers that are gone


def _traceback() -> str:
    # A pipe holds more than this, so that nobody has to read before this process ends.
    return f"a process of the training failed:\n{traceback.format_exc()[-10000:]}"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
