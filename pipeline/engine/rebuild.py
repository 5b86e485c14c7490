"""Repairing artifacts without their recipe: what made one, and of what, stands in its record.

Only the damaged piece is made again: a record from its copy, a note from the record, a part of the pool, one shard, or where an
artifact has no shards its stage. It is made beside the artifact and takes the damaged piece's place when it is whole, so that a
kill leaves things as they were, and nothing else is touched.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cache.errors import CorruptArtifactError, MissingSourceError, SevilaError, StoreError, mend
from cache.files import disk_errors, refuse_links, sync
from cache.fingerprint import file_digest, fingerprint
from cache.notes import read_copies, read_note, write_note
from cache.pool import arrays_digest, part_paths
from cache.pool_listing import PARTS, PartId
from cache.record import PROGRESS, RECORD, Record, artifact_id
from cache.store import Store
from cache.tables import read_rows
from cache.untrusted import inside, is_name
from cache.verify import OF_A_RECIPE, Problem, Verification, holder
from pipeline.engine.build import provenance
from pipeline.engine.output import Output, ShardedOutput
from pipeline.engine.read_inputs import ReadInputs
from pipeline.engine.stage import Artifact, Config, RunContext, Stage

log = logging.getLogger("sevila")

PLAN = f"{PROGRESS}/plan.json"
Stages = Mapping[str, Stage]
OF_SHARD = re.compile(r"[^/]+/(\d{5})\.[^/]+")  # a file of a sharded artifact, or the note of the shard


def repair(run: RunContext, found: Verification, stages: Stages) -> list[str]:
    """Make again what is damaged, upstream first, and return a sentence for each thing that could not be repaired.

    `stages` are those that may have made it, by name.
    """
    store = run.store
    failed: list[str] = []
    for problem in found.problems:
        if problem.piece == "record":
            with _told(failed), _own_copy(store, problem.id):
                refuse_links(store.path(problem.id))
                _mend_record(store, problem.id)
        elif problem.piece == "memory":
            problem.path.unlink()
            log.info("%s: removed; what it remembered is learned anew by the next run", problem.path)
        elif problem.piece in ("artifact", "stale"):
            first = (
                f"delete {problem.path.parent}, then " if problem.name == RECORD and problem.piece == "artifact" else ""
            )
            failed.append(f"{problem}; {first}run the recipe again, which makes it")
        elif problem.piece == "link":
            failed.append(f"{problem}; move that here, or delete the link")
        elif problem.piece == "name":
            failed.append(
                f"{problem.path}: only its run, repeated as --name {problem.id} --replace, says what it named"
            )
    # Only now is it known what artifacts with a damaged record were made from, and whether their files are whole. What they
    # were made from has to be whole, too.
    again = Verification(store, found.read)
    artifacts = [problem.id for problem in found.problems if problem.piece not in ("part", "memory", *OF_A_RECIPE)]
    again.artifacts(_with_ancestors(store, artifacts))
    again.parts({_part_id(problem) for problem in found.problems if problem.piece == "part"})
    users = _users(store, {_part_id(problem) for problem in again.problems if problem.piece == "part"})
    again.artifacts(_with_ancestors(store, [id for those in users.values() for id in those]))
    damage: dict[str, list[Problem]] = {}
    for problem in again.problems:
        if problem.piece not in ("record", *OF_A_RECIPE):
            damage.setdefault(problem.id, []).append(problem)
    makers: dict[str, list[PartId]] = {}
    for part, those in _users(
        store, {_part_id(problem) for problem in again.problems if problem.piece == "part"}
    ).items():
        damage.pop("/".join(part))
        with _told(failed):
            for id in _makers(run, part, those, stages):
                makers.setdefault(id, []).append(part)
    for id in _upstream_first(store, dict.fromkeys([*damage, *makers])):
        # One repair of an artifact at a time: a second one would clear the folder that the first takes the pieces from.
        with (
            _told(failed),
            store.lock(f"{id}.repair/all"),
            _own_copy(store, id) if id in damage else nullcontext(),
        ):
            refuse_links(store.path(id))
            _repair(run, id, damage.get(id, ()), makers.get(id, ()), stages)
    return list(dict.fromkeys(failed))


@contextmanager
def _told(failed: list[str]) -> Iterator[None]:
    try:
        yield
    except SevilaError as error:
        failed.append(str(error))


@contextmanager
def _own_copy(store: Store, id: str) -> Iterator[None]:
    """Have an artifact of a store below in one's own, where it is found before the other, if the block succeeds."""
    root = store.layer(id)
    if root == store.root:
        yield
        return
    copy, own = store.partial(f"{id}.copy"), store.root / "artifacts" / id
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(store.path(id), copy, symlinks=True)
    own.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(own, ignore_errors=True)  # a folder without a record is no artifact
    os.rename(copy, own)
    log.info("%s: repaired in %s, as %s is only read", id, store.root, root)
    try:
        yield
    except BaseException:
        store.remove(id)
        raise


def _mend_record(store: Store, id: str) -> None:
    folder = store.path(id)
    try:
        record = Record.of_note(_copy(folder), folder / PROGRESS / RECORD)
        if artifact_id(record.stage, record.version, record.config, record.inputs) != id:
            raise CorruptArtifactError("its copy is another artifact's")
    except (SevilaError, OSError, TypeError, KeyError) as error:
        raise StoreError(
            f"{folder / RECORD}: damaged, and nothing is left to rebuild it from ({error}); delete {folder}, then run its "
            "recipe again"
        ) from error
    write_note(folder / RECORD, record.as_note())
    log.info("%s: rebuilt its record", id)


def _copy(folder: Path) -> dict[str, Any]:
    try:
        return read_note(folder / PROGRESS / RECORD)
    except CorruptArtifactError:
        return read_copies(folder / RECORD, folder / PROGRESS / RECORD)


def _mend_copy(store: Store, id: str) -> bool:
    """Make a record and its copy the same again, and return whether it was the record that changed.

    Raises:
        StoreError: both are whole and of this artifact, and the files do not tell which of them is right.
    """
    record, folder = store.record(id), store.path(id)
    own, copy = folder / RECORD, folder / PROGRESS / RECORD
    with suppress(CorruptArtifactError, FileNotFoundError):
        other = Record.load(copy)
        is_own = artifact_id(other.stage, other.version, other.config, other.inputs) == other.id == id
        fits = [_fits(record, folder), _fits(other, folder)]
        if is_own and fits[0] == fits[1]:
            raise StoreError(
                f"{own} and {copy} are both whole and differ, and {'both fit' if fits[0] else 'neither fits'} the files: delete "
                "the wrong one, then repair again"
            )
        if is_own and fits[1]:
            write_note(own, other.as_note())
            log.warning("%s: differed from its copy, which fits the files, and was rebuilt from that", own)
            return True
    write_note(copy, record.as_note())
    log.info("%s: rebuilt the copy of its record", id)
    return False


def _fits(record: Record, folder: Path) -> bool:
    """Whether the files of an artifact are those of a record."""
    paths = {inside(folder, name): wanted for name, wanted in record.files.items()}
    return all(path.is_file() and file_digest(path) == wanted["sha256"] for path, wanted in paths.items())


def _repair(run: RunContext, id: str, problems: Sequence[Problem], parts: Sequence[PartId], stages: Stages) -> None:
    """Repair an artifact's files and notes, and those parts of the pool that it is the one to make."""
    store = run.store
    if any(problem.name == f"{PROGRESS}/{RECORD}" for problem in problems) and _mend_copy(store, id):
        return
    record, folder = store.record(id), store.path(id)
    for problem in sorted(problems, key=lambda problem: problem.piece == "plan"):  # which is mended from the notes
        if problem.piece == "plan":
            _mend_plan(record, folder)
        elif problem.piece == "note" and problem.name != f"{PROGRESS}/{RECORD}":
            _mend_note(record, folder / problem.name)
    damaged = {problem.name for problem in problems if problem.piece == "file"}
    if any(problem.piece == "arrays" for problem in problems):
        _renote_arrays(store, id)
    if not damaged and not parts:
        return
    if why := store.why_stale(id):
        raise StoreError(f"{id}: is stale: {why}; run the recipe again, which makes it")
    stage, cfg, inputs = _made_of(run, record, stages)
    shards = {_shard_of(name) for name in damaged}
    shards |= {shard for shard, part, _ in _pointers(store, record) if part in parts}
    with store.made_anew(f"{key}-{name}" for _, key, name in parts):
        before = {part: _remove_part(store, part) for part in parts}
        started = datetime.now(UTC)
        out = _make(run, stage, cfg, inputs, record, shards)
    for part, digest in before.items():
        _tell_part(store, part, digest)
    now = replace(record, **provenance(run, started) | out.notes())
    _put_in_place(store, record, now, damaged, out.folder, stage)
    shutil.rmtree(out.folder, ignore_errors=True)


def _make(
    run: RunContext, stage: Stage, cfg: Config, inputs: list[Any], record: Record, shards: set[int | None]
) -> Output:
    """Make an artifact, or only some of its shards, in a folder beside it; killed, it goes on where that is possible."""
    store, name, made = run.store, f"{record.id}.repair", run.store.path(record.id)
    read = ReadInputs.of(record.id, stage, inputs)
    folder = store.partial(name)
    refuse_links(folder)
    if not stage.sharded:
        with store.lock(f"{name}/build"):
            if not stage.resumes:
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            out = Output(folder, stage, read=read)
            with disk_errors(folder):
                stage.function(cfg, run, *inputs, out=out)
            return out
    progress = folder / PROGRESS
    if None not in shards and (made / PLAN).exists() and not progress.exists():
        progress.mkdir(parents=True)
        for note in [made / PLAN, *_notes(made)]:
            own = {"shard": int(note.stem)} if note.stem.isdecimal() else {}
            write_note(progress / note.name, {**_content(note, record), **own, **read.header})
    for note in _notes(
        folder
    ):  # of shards that are whole where they are, or were made here by a repair that was killed
        number = int(note.stem)
        files = [file for file in record.files if _shard_of(file) == number]
        if (number in shards or None in shards) and not all((folder / file).exists() for file in files):
            note.unlink()
    sharded = ShardedOutput(store, name, stage, read=read)
    with disk_errors(folder):
        stage.function(cfg, run, *inputs, out=sharded)
    sharded.collect()
    return sharded


def _put_in_place(store: Store, before: Record, now: Record, damaged: set[str], made: Path, stage: Stage) -> None:
    """Take what was damaged, or has other bytes now, from the folder `made`; and the record, where that says others."""
    measured = tuple(f"{table}{end}" for table in stage.output.measured for end in "./")
    differing = {name for name in now.files if now.files[name] != before.files.get(name)}
    telling = {name for name in differing if not name.startswith(measured)}
    gone = before.files.keys() - now.files.keys()  # where its plan was lost and its shards are cut otherwise
    taken = now.files.keys() if gone else damaged | telling
    if not taken:  # only parts of the pool were to be made
        return
    if telling:
        store.note_inputs(before.id)
    with _own_copy(store, before.id), store.lock(f"{before.id}/publish"):
        folder = store.path(before.id)
        for name in sorted(taken):
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(made / name, folder / name)
            sync((folder / name).parent)
        if not differing & taken:
            log.info("%s: repaired, its bytes are those that were written", before.id)
            return
        for note in [note for note in (made / PROGRESS).glob("*.json") if note.name != RECORD]:
            os.replace(note, folder / PROGRESS / note.name)
        files = {name: now.files[name] if name in taken else before.files[name] for name in now.files}
        _write_record(store, replace(now, files=files), folder)
        for name in gone:
            (folder / name).unlink(missing_ok=True)
    if telling:
        _warn(before.id, "other bytes than before", store.made_from(before.id))
    else:
        log.info("%s: repaired; only measured times differ", before.id)


def _write_record(store: Store, record: Record, folder: Path) -> None:
    """Write a record whose content is another now, and its copy."""
    arrays = arrays_digest(store, record, folder) if "." in record.content else ""
    for place in (folder / PROGRESS / RECORD, folder / RECORD):
        write_note(place, record.sealed(arrays).as_note())


def _renote_arrays(store: Store, id: str) -> None:
    """Have an artifact note the arrays that it points to as they are now, and say what was made from the former ones."""
    record = store.record(id)
    if (
        "." not in record.content
        or record.content == record.sealed(arrays_digest(store, record, store.path(id))).content
    ):
        return
    store.note_inputs(id)
    with _own_copy(store, id), store.lock(f"{id}/publish"):
        _write_record(store, record, store.path(id))
    _warn(id, "other arrays than before", store.made_from(id))


def _content(note: Path, record: Record) -> dict[str, Any]:
    """Return a note of an artifact's making; raises `CorruptArtifactError` for one of another artifact."""
    content = read_note(note)
    if content.get("artifact", record.id) != record.id:
        raise CorruptArtifactError(f"{note}: is of {content['artifact']}, wanted {record.id}; {mend(note)}")
    return content


def _warn(what: str, how: str, made_from: Iterable[str]) -> None:
    told = ", ".join(made_from)
    log.warning(
        "%s: made again, with %s, as another machine or number of threads gives%s",
        what,
        how,
        f"; made from the former ones, and to be made anew by the next run of their recipes: {told}" if told else "",
    )


def _mend_plan(record: Record, folder: Path) -> None:
    """Write a damaged plan anew from the notes of the shards; if one of these does not know its part of it, remove it."""
    notes = [read_note(path) for path in _notes(folder)]
    if notes and all("items" in note for note in notes):
        header = {name: notes[0][name] for name in ReadInputs("").header if name in notes[0]}
        plan = {"shards": [note["items"] for note in notes], "settings": notes[0]["settings"]}
        write_note(folder / PLAN, plan | header)
        log.info("%s: rebuilt its plan", record.id)
        return
    log.warning("%s: damaged, and needed only to repair one shard and not all; removed", folder / PLAN)
    (folder / PLAN).unlink()


def _mend_note(record: Record, path: Path) -> None:
    """Write a shard's damaged note anew: what the plan and the record say of it, and what the other notes leave of that."""
    number, folder = int(path.stem), path.parents[1]
    others = [read_note(note) for note in _notes(folder) if note != path]
    files = {name: file for name, file in record.files.items() if _shard_of(name) == number}
    content: dict[str, Any] = {"files": files}
    for name in ("rows", "dropped", "phase_seconds"):
        whole: dict[str, float] = getattr(record, name)
        rest = {key: round(count - sum(other[name].get(key, 0) for other in others), 3) for key, count in whole.items()}
        content[name] = {key: count for key, count in rest.items() if count or name == "rows"}
    content["pool"] = ""  # which is noted of the whole
    with suppress(CorruptArtifactError, FileNotFoundError):
        plan = read_note(folder / PLAN)
        content |= {"items": plan["shards"][number], "settings": plan["settings"]}
        if "artifact" in plan:  # since record version 3
            content |= {"shard": number} | {name: plan[name] for name in ReadInputs("").header}
    write_note(path, content)
    log.info("%s: rebuilt the note %s", record.id, path.name)


def _notes(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / PROGRESS).glob("*.json") if path.stem.isdecimal())


def _made_of(run: RunContext, record: Record, stages: Stages) -> tuple[Stage, Config, list[Any]]:
    """Return what makes an artifact: its stage, config and inputs, all of them here.

    Raises:
        StoreError: the stage has changed since.
        MissingSourceError: an input is gone, or not the one it was.
    """
    stage = stages.get(record.stage)
    if stage is None or stage.version != record.version:
        now = f"is of version {stage.version} now" if stage else "is no more"
        raise StoreError(
            f"{record.id}: the stage {record.stage} {now}; run the recipe, which makes what takes its place"
        )
    try:
        cfg = stage.config.model_validate_json(json.dumps(record.config))
        made = artifact_id(stage.name, stage.version, cfg.model_dump(mode="python"), record.inputs)
    except ValueError:
        made = ""
    if made != record.id or record.inputs.keys() != set(stage.inputs):
        raise StoreError(
            f"{record.id}: the stage {record.stage} takes other settings or inputs now; run the recipe, which makes what takes "
            "its place"
        )
    return stage, cfg, [_input(run, record, name, stages) for name in stage.inputs]


def _input(run: RunContext, record: Record, name: str, stages: Stages) -> Any:
    id = record.inputs[name]
    if id is None:
        return None
    if run.store.exists(id):
        return _artifact(run.store, id, stages)
    if id.split("-")[0] in stages:
        raise MissingSourceError(f"{record.id} was made from {id}, which the store does not hold: run its recipe")
    assert run.sources is not None
    try:
        source = run.sources.identified(id, lambda of: _artifact(run.store, of, stages))
        problem = source.problem
    except MissingSourceError as error:
        problem = str(error)
    if problem:
        again = f"`sevila stage {record.stage} RECIPE --again` makes it from its recipe"
        raise MissingSourceError(f"{record.id} cannot be repaired: {problem}; or {again}")
    return source


def _artifact(store: Store, id: str, stages: Stages) -> Artifact:
    stage = stages.get(store.record(id).stage) if store.exists(id) else None
    return stage.output(store, id) if stage else Artifact(store, id)


def _users(store: Store, parts: set[PartId]) -> dict[PartId, dict[str, bool]]:
    """Return, for each part of the pool, the artifacts that point to it, and whether one needs every frame of it."""
    found: dict[PartId, dict[str, bool]] = {part: {} for part in parts}
    for id in store if parts else ():
        try:
            record = store.record(id)
        except CorruptArtifactError:
            continue
        for _, part, whole in _pointers(store, record):
            if part in found:
                found[part][id] = found[part].get(id, False) or whole
    return found


def _pointers(store: Store, record: Record) -> Iterator[tuple[int | None, PartId, bool]]:
    """Yield each part of the pool that an artifact points to: the shard that does, the part, whether all of it is needed."""
    for file in sorted(name for name in record.files if record.pool and name.startswith("parts/")):
        try:
            rows = read_rows([inside(store.path(record.id), file)], PARTS)
        except (SevilaError, OSError):  # damaged itself, and repaired as a file
            continue
        for row in rows:
            whole = fingerprint(row["frame_indices"]) == row["part"]
            yield _shard_of(file), (record.pool, row["key"], row["part"]), whole


def _makers(run: RunContext, part: PartId, users: Mapping[str, bool], stages: Stages) -> list[str]:
    """Return the artifact to make a part of the pool for, or all that use it where none uses all of it.

    Raises:
        StoreError: no artifact points to it.
        SevilaError: what it is made from is not here.
    """
    if not users:
        raise StoreError(f"{'/'.join(part)}: no artifact of the store points to it; `sevila cache gc` removes it")
    whole = [id for id in users if users[id]]
    problems = []
    for id in whole or users:
        try:
            _made_of(run, run.store.record(id), stages)
        except SevilaError as error:
            problems.append(error)
        else:
            return [id] if whole else list(users)
    raise problems[0]


def _remove_part(store: Store, part: PartId) -> str | None:
    """Delete a part of the pool, unless a store below holds it, and return the digest of the array that it had."""
    note = part_paths(holder(store, part), *part)[1]
    try:
        digest = str(read_note(note)["array"])
    except (SevilaError, OSError, KeyError, TypeError):
        digest = None
    for own in reversed(part_paths(store.root, *part)):
        own.unlink(missing_ok=True)
    return digest


def _tell_part(store: Store, part: PartId, before: str | None) -> None:
    path, note = part_paths(store.root, *part)
    digest = read_note(note)["array"] if note.exists() else None
    if digest == before:
        log.info("%s: repaired, its array is the one that was written", path)
        return
    log.info("%s: made again", path)
    for id in _users(store, {part})[part]:
        _renote_arrays(store, id)


def _part_id(problem: Problem) -> PartId:
    space, key, name = problem.id.split("/")
    return space, key, name


def _shard_of(name: str) -> int | None:
    match = OF_SHARD.fullmatch(name)
    return int(match[1]) if match else None


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
    """Return the artifacts of the store that one was made from; of videos, the questions they were looked for by."""
    try:
        inputs = [input for input in store.record(id).inputs.values() if input is not None]
    except (SevilaError, OSError):
        return []
    inputs += [(store.digests.source_of(input) or "").split(" ")[-1] for input in inputs]
    return [input for input in inputs if is_name(input) and store.exists(input)]
