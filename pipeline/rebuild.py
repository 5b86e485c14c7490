"""Repairing artifacts without their recipe: what made one, and of what, stands in its record.

Only the damaged piece is made again: a record from its copy, a note from the record, one shard, or where an artifact has no
shards its stage. Everything else keeps its bytes and files.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from typing import Any

from filelock import Timeout

from cache.errors import CorruptArtifactError, MissingSourceError, SevilaError, StoreError
from cache.notes import read_note, write_note
from cache.store import PROGRESS, RECORD, Record, Store, artifact_id
from cache.verify import Problem, Verification
from pipeline.build import build
from pipeline.stage import STAGES, Artifact, Config, RunContext, Stage

log = logging.getLogger("sevila")

OF_SHARD = re.compile(r"[^/]+/(\d{5})\.[^/]+")  # a file of a sharded artifact, or the note of the shard


def repair(run: RunContext, found: Verification) -> list[str]:
    """Make again what is damaged, upstream first, and return a sentence for each artifact that could not be repaired."""
    store = run.store
    failed: list[str] = []
    for problem in found.problems:
        if problem.name in (RECORD, f"{PROGRESS}/{RECORD}"):
            with _told(failed):
                _mend_record(store, problem)
    # Only now is it known what the artifacts with a damaged record were made from, and whether their files are whole.
    again = Verification(store, found.read)
    again.artifacts(_with_ancestors(store, dict.fromkeys(problem.id for problem in found.problems)))
    by_id: dict[str, list[Problem]] = {}
    for problem in again.problems:
        if problem.piece != "record":
            by_id.setdefault(problem.id, []).append(problem)
    for id in _upstream_first(store, by_id):
        with _told(failed):
            _repair(run, id, by_id[id])
    return failed


def unfinished(store: Store) -> list[str]:
    """Return the artifacts whose repair or rebuild was killed."""
    places = [*store.root.glob(f"partial/*/{PROGRESS}/{RECORD}"), *store.root.glob(f"aside/*/{RECORD}")]
    ids = {path.relative_to(store.root).parts[1] for path in places}
    return sorted(id for id in ids if not store.exists(id))


def put_back(store: Store, id: str) -> None:
    """Publish as it was what a killed repair or rebuild has taken out of the store, so that it can be repaired again.

    Raises:
        StoreError: another process is making it.
    """
    partial, aside = store.partial(id), store.root / "aside" / id
    with _alone_with(store, id):
        if store.exists(id):
            return
        if (aside / RECORD).exists():
            os.rename(aside, store.path(id))
        elif (partial / PROGRESS / RECORD).exists():
            _back(store, id)


@contextmanager
def _told(failed: list[str]) -> Iterator[None]:
    try:
        yield
    except SevilaError as error:
        failed.append(str(error))


def _mend_record(store: Store, problem: Problem) -> None:
    """Write a damaged record anew from its copy, or the copy from the record."""
    folder = store.path(problem.id)
    try:
        if problem.piece == "record":
            record = Record(**read_note(folder / PROGRESS / RECORD))
            if artifact_id(record.stage, record.version, record.config, record.inputs) != problem.id:
                raise CorruptArtifactError("its copy is another artifact's")
        else:
            record = store.record(problem.id)
    except (SevilaError, OSError, TypeError) as error:
        raise StoreError(
            f"{problem}; nothing is left to rebuild it from ({error}): delete {folder} and run the recipe again"
        ) from error
    write_note(problem.path, asdict(record))
    log.info("%s: rebuilt %s", problem.id, problem.name)


def _repair(run: RunContext, id: str, problems: Sequence[Problem]) -> None:
    store = run.store
    record = store.record(id)
    plan = store.path(id) / PROGRESS / "plan.json"
    damaged = [problem.name for problem in problems if problem.piece == "file"]
    if any(problem.piece == "plan" for problem in problems):
        # What it says is needed only to make a shard anew; without it, the next damage costs all shards.
        log.warning("%s: damaged, and of no more use: the shards are done; removed", plan)
        plan.unlink()
    for problem in problems:
        if problem.piece == "note":
            _mend_note(store, record, problem)
    if not damaged:
        return
    stage, cfg, inputs = _made_of(run, record)
    shards = {int(match[1]) if (match := OF_SHARD.fullmatch(name)) else None for name in damaged}
    if stage.sharded and None not in shards and plan.exists():
        with _taken_out(store, record, damaged, shards):
            build(stage, cfg, run, inputs)
    else:
        with store.set_aside(id):
            build(stage, cfg, run, inputs)
    _compare(store, stage, record)


def _mend_note(store: Store, record: Record, problem: Problem) -> None:
    """Write a shard's damaged note anew: what the record says of its files, and what the other notes leave of the record."""
    others = [
        read_note(path)
        for path in sorted(problem.path.parent.glob("[0-9]*.json"))
        if path != problem.path and path.stem.isdecimal()
    ]
    note: dict[str, Any] = {
        "files": {
            name: file
            for name, file in record.files.items()
            if (match := OF_SHARD.fullmatch(name)) and match[1] == problem.path.stem
        }
    }
    for name, whole in (
        ("rows", record.rows),
        ("dropped", record.dropped),
        ("phase_seconds", record.phase_seconds),
    ):
        rest = {key: round(total - sum(other[name].get(key, 0) for other in others), 3) for key, total in whole.items()}
        note[name] = {key: value for key, value in rest.items() if value or name != "dropped"}
    write_note(problem.path, note)
    log.info("%s: rebuilt %s", problem.id, problem.name)


def _made_of(run: RunContext, record: Record) -> tuple[Stage, Config, list[Any]]:
    """Return what makes an artifact: its stage, config and inputs, all of them here.

    Raises:
        StoreError: the stage has changed since.
        MissingSourceError: an input is gone, or not the one it was.
    """
    stage = STAGES.get(record.stage)
    if stage is None or stage.version != record.version:
        now = f"is of version {stage.version} now" if stage else "is no more"
        raise StoreError(
            f"{record.id}: the stage {record.stage} {now}, so it cannot be repaired: run its recipe, which makes what "
            "takes its place"
        )
    cfg = stage.config.model_validate_json(json.dumps(record.config))
    inputs = [_input(run, record, name) for name in stage.inputs]
    assert stage.artifact_id(cfg, inputs) == record.id, f"{record.id} is not what its record makes"
    return stage, cfg, inputs


def _input(run: RunContext, record: Record, name: str) -> Any:
    id = record.inputs[name]
    if id is None:
        return None
    if run.store.exists(id):
        return _artifact(run.store, id)
    if id.split("-")[0] in STAGES:
        raise MissingSourceError(f"{record.id} was made from {id}, which the store does not hold: run its recipe")
    assert run.sources is not None
    source = run.sources.identified(id, lambda of: _artifact(run.store, of))
    if source.problem:
        raise MissingSourceError(f"{record.id} cannot be repaired: {source.problem}")
    return source


def _artifact(store: Store, id: str) -> Artifact:
    stage = STAGES.get(store.record(id).stage) if store.exists(id) else None
    return stage.output(store, id) if stage else Artifact(store, id)


@contextmanager
def _taken_out(store: Store, record: Record, damaged: Iterable[str], shards: Iterable[int | None]) -> Iterator[None]:
    """Make an artifact one in the making again that lacks some shards; unless the block finishes it, it is put back."""
    folder, partial = store.path(record.id), store.partial(record.id)
    with _alone_with(store, record.id):
        write_note(folder / PROGRESS / RECORD, asdict(record))  # by which it is put back after a kill
        for number in shards:
            (folder / PROGRESS / f"{number:05d}.json").unlink(missing_ok=True)
        for name in damaged:
            _delete(folder / name)
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).unlink()
        os.rename(folder, partial)
    try:
        yield
    finally:
        if not store.exists(record.id) and partial.exists():
            _back(store, record.id)


def _back(store: Store, id: str) -> None:
    write_note(store.partial(id) / RECORD, read_note(store.partial(id) / PROGRESS / RECORD))
    shutil.rmtree(store.path(id), ignore_errors=True)  # a folder without a record is no artifact
    os.rename(store.partial(id), store.path(id))


@contextmanager
def _alone_with(store: Store, id: str) -> Iterator[None]:
    """Hold all locks of an artifact; raises `StoreError` if another process has one, and so is making it."""
    names = {path.stem for path in (store.root / "locks" / id).glob("*.lock")} | {"publish"}
    with ExitStack() as held:
        for name in sorted(names):
            try:
                held.enter_context(store.lock(f"{id}/{name}").acquire(timeout=0))
            except Timeout as error:
                raise StoreError(f"{id}: another process is making it; repair it when that has ended") from error
        yield


def _compare(store: Store, stage: Stage, before: Record) -> None:
    """Keep the record of an artifact that has its bytes back; else say what else is not what it was made from."""
    after = store.record(before.id)
    if after.files == before.files:
        for path in (PROGRESS + "/" + RECORD, RECORD):
            write_note(store.path(before.id) / path, asdict(before))
        log.info("%s: repaired, its bytes are those that were written", before.id)
        return
    measured = tuple(f"{table}{end}" for table in stage.output.measured for end in "./")
    differing = [
        name
        for name in before.files.keys() | after.files.keys()
        if before.files.get(name) != after.files.get(name) and not name.startswith(measured)
    ]
    if not differing:
        log.info("%s: repaired; only measured times differ", before.id)
        return
    of_it = store.made_from(before.id)
    log.warning(
        "%s: made anew with other bytes (%s), as another machine or number of threads does%s",
        before.id,
        ", ".join(sorted(differing)),
        f"; made from the former bytes, and kept: {', '.join(of_it)}" if of_it else "",
    )


def _delete(path: Any) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _with_ancestors(store: Store, ids: Iterable[str]) -> list[str]:
    """Return the artifacts, and those of the store that they were made from, directly or through others."""
    reached: dict[str, None] = {}
    waiting = list(ids)
    while waiting:
        id = waiting.pop()
        if id not in reached and store.exists(id):
            reached[id] = None
            waiting += _inputs(store, id)
    return list(reached)


def _upstream_first(store: Store, ids: Iterable[str]) -> list[str]:
    depths: dict[str, int] = {}

    def depth(id: str) -> int:
        if id not in depths:
            depths[id] = 1 + max(map(depth, _inputs(store, id)), default=0)
        return depths[id]

    return sorted(ids, key=depth)


def _inputs(store: Store, id: str) -> list[str]:
    try:
        return [input for input in store.record(id).inputs.values() if input is not None and store.exists(input)]
    except (SevilaError, OSError):
        return []
