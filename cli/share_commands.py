"""`sevila cache push` and `pull`: share artifacts through a folder or an object store."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

from cache.errors import StoreError
from cache.printable import counted
from cli.options import Text, Where
from cli.terminal import print_text

if TYPE_CHECKING:
    from cache.push import Transfer


NOT_THERE = {
    "pushed": "not pushed, as this store lacks it (for artifacts of a store below, give --below)",
    "pulled": "not pulled, as the remote lacks it",
}


def push(
    remote: Text,
    run: Text | None = None,
    /,
    *,
    without_features: bool = False,
    without_frames: bool = False,
    replace: bool = False,
    where: Where,
) -> None:
    """Copy a named run and everything upstream to a remote from which others can pull; existing files are skipped.

    Args:
        remote: a folder, or an address: s3://BUCKET/PATH, gs://BUCKET/PATH, hf://datasets/OWNER/NAME, ssh://HOST/PATH
        run: name of a run (`sevila runs`); default: all runs and artifacts of the store
        without_features: do not copy the features in the pool, which are most of the bytes
        without_frames: do not copy the frames in the pool
        replace: reassign the name if it belongs to another run at the remote
    """
    from cache.push import Push
    from cache.remote import Remote
    from pipeline.engine.progress import count_bar

    store = where.open()
    if not store.root.is_dir():
        raise StoreError(f"{store.root}: there is no store to push; `--store FOLDER` selects another")
    read_only = store.root.is_dir() and not os.access(store.root, os.W_OK)  # a colleague's
    with nullcontext() if read_only else store.in_use():
        leave_out = _stages_left_out(without_features, without_frames)
        transfer = Push(store, Remote(remote), [run] if run else [], leave_out, replace)
        with count_bar("push", transfer.n_bytes, "B") as moved:
            transfer.run(moved)
    print_text(_summary("pushed", transfer, f"to {remote}"))


def pull(
    remote: Text,
    run: Text | None = None,
    /,
    *,
    without_features: bool = False,
    without_frames: bool = False,
    replace: bool = False,
    where: Where,
) -> None:
    """Copy a named run and everything upstream from a remote; every byte is checked on arrival.

    Args:
        remote: a folder, or an address, as for `sevila cache push`
        run: name of a run at the remote; default: all runs and artifacts
        without_features: do not copy the features, which reading and repeating the run do not need
        without_frames: do not copy the frames
        replace: reassign the name if it belongs to another run in the store
    """
    from cache.pull import Pull
    from cache.remote import Remote
    from pipeline.engine.progress import count_bar

    store = where.open()
    with store.in_use():
        leave_out = _stages_left_out(without_features, without_frames)
        transfer = Pull(store, Remote(remote), [run] if run else [], leave_out, replace)
        with count_bar("pull", transfer.n_bytes, "B") as moved:
            transfer.run(moved)
    print_text(_summary("pulled", transfer, f"from {remote}"))


def _stages_left_out(without_features: bool, without_frames: bool) -> list[str]:
    return ["extract_features"] * without_features + ["sample_frames"] * without_frames


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
