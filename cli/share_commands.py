"""`sevila cache push` and `pull`: share artifacts through a folder or an object store."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from cache.errors import StoreError
from cache.printable import counted
from cli.options import Text, Where
from cli.terminal import print_text

if TYPE_CHECKING:
    from cache.pull import Pull
    from cache.push import Push, Transfer
    from cache.store import Store


NOT_THERE = {
    "pushed": "not pushed, as this store lacks it (for artifacts of a store below, give --below)",
    "pulled": "not pulled, as the remote lacks it",
}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TransferOptions:
    """What to copy, and whether a name may be reassigned.

    Attributes:
        without_features: do not copy the features, most of the bytes, which reading and repeating the run do not need
        without_frames: do not copy the frames
        replace: reassign the name if it belongs to another run at the target
    """

    without_features: bool = False
    without_frames: bool = False
    replace: bool = False

    def stages_left_out(self) -> list[str]:
        """Return the stages whose arrays are not copied."""
        return ["extract_features"] * self.without_features + ["sample_frames"] * self.without_frames


def push(
    remote: Text, run: Text | None = None, /, *, options: TransferOptions = TransferOptions(), where: Where
) -> None:
    """Copy a named run and everything upstream to a remote from which others can pull; existing files are skipped.

    Args:
        remote: a folder, or an address: s3://BUCKET/PATH, gs://BUCKET/PATH, hf://datasets/OWNER/NAME, ssh://HOST/PATH
        run: name of a run (`sevila runs`); default: all runs and artifacts of the store
    """
    from cache.push import Push

    store = where.open()
    if not store.root.is_dir():
        raise StoreError(f"{store.root}: there is no store to push; `--store FOLDER` selects another")
    read_only = not os.access(store.root, os.W_OK)  # a colleague's
    with nullcontext() if read_only else store.in_use():
        _transfer(Push, "push", store, remote, run, options)


def pull(
    remote: Text, run: Text | None = None, /, *, options: TransferOptions = TransferOptions(), where: Where
) -> None:
    """Copy a named run and everything upstream from a remote; every byte is checked on arrival.

    Args:
        remote: a folder, or an address, as for `sevila cache push`
        run: name of a run at the remote; default: all runs and artifacts
    """
    from cache.pull import Pull

    store = where.open()
    with store.in_use():
        _transfer(Pull, "pull", store, remote, run, options)


def _transfer(
    kind: type[Push] | type[Pull], verb: str, store: Store, remote: str, run: str | None, options: TransferOptions
) -> None:
    from cache.remote import Remote
    from pipeline.engine.progress import count_bar

    transfer = kind(store, Remote(remote), [run] if run else [], options.stages_left_out(), options.replace)
    with count_bar(verb, transfer.n_bytes, "B") as moved:
        transfer.run(moved)
    print_text(_summary(f"{verb}ed", transfer, f"{'to' if verb == 'push' else 'from'} {remote}"))


def _summary(verb: str, transfer: Transfer, where: str) -> str:
    from pipeline.text_table import human_size

    lines = [
        f"{verb} {len(transfer.new):,} of {counted(transfer.n_artifacts, 'artifacts')} {where}: "
        f"{counted(transfer.n_files, 'files')}, {human_size(transfer.n_bytes)}; existing files were skipped"
    ]
    lines += [f"run {run.name}: {run.status}, {counted(len(run.artifacts), 'artifacts')}" for run in transfer.runs]
    lines += [f"without the arrays of {', '.join(transfer.left_out)}"] if transfer.left_out else []
    lines += [f"{NOT_THERE[verb]}: {', '.join(transfer.missing)}"] if transfer.missing else []
    return "\n".join(lines)
