"""The log of a process that was started here goes wherever this process' own goes: a terminal, the log of a run."""

from __future__ import annotations

import logging
import threading
from contextvars import copy_context
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

from cache.printable import keep_logs_printable

log = logging.getLogger("sevila")


def receive_logs(context: Any) -> tuple[Connection, threading.Thread]:
    """Return the connection that a new process gives to `send_logs`, closed here once it is started, and the thread that listens.

    Its records are handled in the present context, which says whose they are.
    """
    receiver, sender = context.Pipe(duplex=False)
    listener = threading.Thread(target=copy_context().run, args=(_handle_all, receiver), daemon=True)
    listener.start()
    return sender, listener


def send_logs(sender: Connection, level: int) -> None:
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
