"""`sevila cache push` and `pull`: sharing what a store holds through a folder or an object store."""

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
    "pushed": "not pushed, as it is not in this store (what lies in a store below needs --below)",
    "pulled": "not pulled, as nobody has pushed it there",
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
    """Copy a named run, with all it was made from, to a place that others pull from; only what is missing there travels.

    Args:
        remote: a folder, or an address: s3://BUCKET/PATH, gs://BUCKET/PATH, hf://datasets/OWNER/NAME, ssh://HOST/PATH
        run: name of a run (`sevila runs`); else every run and artifact of the store
        without_features: leave the features in the pool, which are most of the bytes
        without_frames: leave the frames in the pool
        replace: let the name stand for this run there, whatever it stood for before
    """
    from cache.push import Push
    from cache.remote import Remote
    from pipeline.engine.progress import count_bar

    store = where.open()
    if not store.root.is_dir():
        raise StoreError(f"there is no store at {store.root}, so that nothing of it can be pushed")
    read_only = store.root.is_dir() and not os.access(store.root, os.W_OK)  # a colleague's
    with nullcontext() if read_only else store.in_use():
        transfer = Push(store, Remote(remote), [run] if run else [], _left(without_features, without_frames), replace)
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
    """Copy a named run, with all it was made from, from where somebody pushed it; every byte is checked on arrival.

    Args:
        remote: a folder, or an address, as `sevila cache push` takes it
        run: name of a run there; else every run and artifact
        without_features: leave the features there: the run is read and repeated without them
        without_frames: leave the frames there
        replace: let the name stand for that run here, whatever it stood for before
    """
    from cache.pull import Pull
    from cache.remote import Remote
    from pipeline.engine.progress import count_bar

    store = where.open()
    with store.in_use():
        transfer = Pull(store, Remote(remote), [run] if run else [], _left(without_features, without_frames), replace)
        with count_bar("pull", transfer.n_bytes, "B") as moved:
            transfer.run(moved)
    print_text(_summary("pulled", transfer, f"from {remote}"))


def _left(without_features: bool, without_frames: bool) -> list[str]:
    return ["extract_features"] * without_features + ["sample_frames"] * without_frames


def _summary(what: str, transfer: Transfer, where: str) -> str:
    from pipeline.text_table import human_size

    lines = [
        f"{what} {len(transfer.new):,} of {counted(transfer.n_artifacts, 'artifacts')} {where}: "
        f"{counted(transfer.n_files, 'files')}, {human_size(transfer.n_bytes)}; what was there did not travel"
    ]
    lines += [f"run {run.name}: {run.status}, {counted(len(run.artifacts), 'artifacts')}" for run in transfer.runs]
    lines += [f"without the arrays of {', '.join(transfer.left_out)}"] if transfer.left_out else []
    lines += [f"{NOT_THERE[what]}: {', '.join(transfer.missing)}"] if transfer.missing else []
    return "\n".join(lines)
