"""The log of a process that was started here arrives here, wherever this process' own goes: a terminal, the log of a run."""

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


def heard(context: Any) -> tuple[Connection, threading.Thread]:
    """Return what to give to a new process, for `tell`, and to close here once that is started; and who listens to its end.

    Its records are handled in the present context, which says whose they are.
    """
    receiver, sender = context.Pipe(duplex=False)
    listener = threading.Thread(target=copy_context().run, args=(_handle_all, receiver), daemon=True)
    listener.start()
    return sender, listener


def tell(sender: Connection, level: int) -> None:
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
