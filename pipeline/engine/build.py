"""Building an artifact: reuse it from the store, or run its stage and publish the result with its provenance."""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from cache.errors import InputChangedError, MissingSourceError, SevilaError
from cache.files import disk_errors, refuse_links, remove_whole
from cache.pool_reader import arrays_digest
from cache.printable import counted
from cache.rebuilding import aside, retire, set_aside
from cache.record import Record
from cache.store import Store
from pipeline.engine.hardware import hardware_facts, reset_peaks
from pipeline.engine.output import Output, ShardedOutput
from pipeline.engine.progress import step_name
from pipeline.engine.read_inputs import ReadInputs
from pipeline.engine.stage import Artifact, Config, Plan, RunContext, Stage

log = logging.getLogger("sevila")

LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "decord", "av", "h5py", "pyarrow")


# `build`, or a function that dispatches pieces first.
Make = Callable[[Stage, Config, RunContext, Sequence[Any]], Artifact]
TRIES = 3  # attempts at an artifact whose inputs are replaced while they are read


def count_missing(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> int:
    """Store the plan of an artifact's shards, and return how many are missing; 0 or 1 for an artifact without shards.

    Once none is missing, `build` only publishes the artifact. Raises the errors of `build`.
    """
    id = _identity(stage, cfg, inputs)
    if _is_finished(run.store, id):
        return 0
    read = _begin(stage, run, inputs, id)
    if stage.plan is None:
        return 1
    with read.checked():
        return len(_sharded(stage, cfg, run, inputs, read).unfinished())


def build_missing(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> None:
    """Build the shards of an artifact that are missing, or the artifact if it has none, except what others have locked.

    Raises the errors of `build`.
    """
    from filelock import Timeout  # here, as read-only commands need no locks

    id = _identity(stage, cfg, inputs)
    if stage.plan is not None:
        with disk_errors(run.store.partial(id)):
            if _is_finished(run.store, id):
                return
            read = _begin(stage, run, inputs, id)
            with read.checked():
                # Backwards, because the process that is helped starts at the first shard.
                missing = _sharded(stage, cfg, run, inputs, read).unfinished()[::-1]
                if missing:
                    reset_peaks(run)
                    stage.function(cfg, run, *inputs, out=_sharded(stage, cfg, run, inputs, read, missing))
        return
    try:
        run.store.lock(f"{id}/build").acquire(timeout=0).lock.release()
    except Timeout:  # return instead of waiting, to free the worker and its GPU
        log.info("%s: %s is being made by another process", stage.name, id)
    else:
        build(stage, cfg, run, inputs)


def build(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> Artifact:
    """Return the artifact of a stage: from the store if it exists and is current, else by running the stage.

    A stored artifact is stale, and rebuilt, if an input's content has changed since it was built.

    Raises:
        MissingSourceError: an input is not on this machine.
        InputChangedError: an input is stale, or was replaced while it was read, in `TRIES` attempts.
    """
    id = stage.artifact_id(cfg, inputs)
    if id is not None and _is_finished(run.store, id):
        remove_whole(aside(run.store, id))  # left by a `rebuild` that was killed at its end
        log.info("%s: reused", step_name(stage.name))
        log.debug("%s: %s", stage.name, id)
        _remember(run.store, inputs)
        return stage.output(run.store, id)
    id = _identity(stage, cfg, inputs)
    names = ", ".join(
        f"{name} {value.id}" for name, value in zip(stage.inputs, inputs, strict=True) if value is not None
    )
    is_long = stage.gpu or stage.resumes or stage.plan is not None
    log.log(logging.INFO if is_long else logging.DEBUG, "%s ...", step_name(stage.name))
    log.debug("%s: %s reads %s", stage.name, id, names or "nothing but its config")
    for n_retries_left in range(TRIES - 1, -1, -1):
        try:
            _make(stage, cfg, run, inputs, id)
            break
        except InputChangedError as error:
            if not n_retries_left or not all(_is_current(value) for value in inputs):
                raise
            log.warning("%s; starting again with its present content", error)
    _remember(run.store, inputs)
    return stage.output(run.store, id)


def _remember(store: Store, inputs: Sequence[Any]) -> None:
    """Remember the ids of sources by name, after a successful build only, so that a wrong path is never remembered."""
    for value in inputs:
        if value is not None and not isinstance(value, Artifact) and not value.problem:
            store.digests.remember(value.source, value.id)


def _make(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any], id: str) -> None:
    started, read = datetime.now(UTC), _begin(stage, run, inputs, id)
    if stage.plan is not None:
        _run(stage, cfg, run, inputs, _sharded(stage, cfg, run, inputs, read), started)
        return
    with run.store.lock(f"{id}/build"):
        if not _is_finished(run.store, id):
            folder = run.store.partial(id)
            refuse_links(folder)
            if not stage.resumes:
                remove_whole(folder)
            folder.mkdir(parents=True, exist_ok=True)
            _run(stage, cfg, run, inputs, Output(folder, stage, read=read), started)


def _sharded(
    stage: Stage,
    cfg: Config,
    run: RunContext,
    inputs: Sequence[Any],
    read: ReadInputs,
    only: Sequence[int] | None = None,
) -> ShardedOutput:
    plan = planned(stage, cfg, run, inputs)
    hardware = partial(hardware_facts, stage.gpu, run)
    return ShardedOutput(run.store, read.artifact, stage, plan, only, hardware, read)


def planned(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> Callable[[], Plan]:
    """Return a function that plans the shards of an artifact."""
    assert stage.plan is not None
    arguments = {"cfg": cfg, "run": run, **dict(zip(stage.inputs, inputs, strict=True))}
    return partial(stage.plan, **{name: arguments[name] for name in inspect.signature(stage.plan).parameters})


def _begin(stage: Stage, run: RunContext, inputs: Sequence[Any], id: str) -> ReadInputs:
    """Return the inputs that a build reads, and remove a stale artifact of the same id, as all its inputs exist."""
    read = ReadInputs.of(id, stage, inputs)
    retire(run.store, id)
    return read


def _is_finished(store: Store, id: str) -> bool:
    """Return whether an artifact exists and is current, after completing the publication of a killed process, if any."""
    return store.is_current(id) or store.finish(id)


def _is_current(value: Any) -> bool:
    return not isinstance(value, Artifact) or value.store.is_current(str(value.id))


def rebuild(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any], make: Make) -> Artifact:
    """Rebuild an artifact with `make`, and return it.

    If its content changes, its dependents become stale: they are never served, and the next run rebuilds them.
    """
    id, store = _identity(stage, cfg, inputs), run.store
    with set_aside(store, id):
        return make(stage, cfg, run, inputs)


def _identity(stage: Stage, cfg: Config, inputs: Sequence[Any]) -> str:
    """Return the artifact's id; raise `MissingSourceError` if an input is not on this machine."""
    for name, value in zip(stage.inputs, inputs, strict=True):
        if value is not None and value.problem:
            raise MissingSourceError(f"{stage.name} needs {name}: {value.problem}")
    id = stage.artifact_id(cfg, inputs)
    assert id is not None, f"{stage.name}: an input has neither an identity nor a problem"
    return id


def _run(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any], out: Output, started: datetime) -> None:
    id = out.read.artifact
    with disk_errors(out.folder), out.read.checked():
        reset_peaks(run)
        stage.function(cfg, run, *inputs, out=out)
    with run.store.lock(f"{id}/publish"):
        out.read.check()
        if run.store.is_current(id):
            log.info("%s: another process has finished %s", stage.name, id)
            return
        out.collect()
        if stage.output.tables and not out.files and stage.plan is None:
            tables = ", ".join(stage.output.tables)
            raise SevilaError(f"{stage.name} wrote none of its tables ({tables}); empty tables must be written, too")
        record = Record(
            id=id,
            stage=stage.name,
            version=stage.version,
            kind=stage.output.kind,
            config=cfg.model_dump(mode="python"),
            inputs=stage.input_ids(inputs),
            input_contents=out.read.contents,
            schemas={
                name: schema.as_dict() | ({"measured": True} if name in stage.output.measured else {})
                for name, schema in stage.output.tables.items()
            },
            **_provenance(stage, run, started) | out.notes(),
        )
        run.store.publish(record.sealed(arrays_digest(run.store, record, out.folder)))
    _log_result(out, id, (datetime.now(UTC) - started).total_seconds())


def _provenance(stage: Stage, run: RunContext, started: datetime) -> dict[str, Any]:
    """Return the provenance fields of a record: libraries, revision, times and hardware of a build that ends now."""
    return {
        "libraries": dict(_library_versions()),
        "git_revision": _git_revision(),
        "started": started.isoformat(timespec="milliseconds"),
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **hardware_facts(stage.gpu, run),
    }


def _log_result(out: Output, id: str, seconds: float) -> None:
    contents = ", ".join(counted(count, name) for name, count in out.rows.items()) or counted(len(out.files), "files")
    log.info("%s: made (%s) in %.1f s", step_name(out.stage.name), contents, seconds)
    log.debug("%s: %s", out.stage.name, id)
    if out.dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in out.dropped.most_common())
        log.warning("%s: %d failed: %s", out.stage.name, out.dropped.total(), reasons)


@cache  # reading them takes 0.1 s, and a process builds dozens of artifacts
def _library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache  # the process runs the code that it loaded at its start
def _git_revision() -> str | None:
    """Return the commit of the project's repository; None if it is installed elsewhere, perhaps in another repository."""
    here = Path(__file__).resolve()
    if _git("ls-files", "--full-name", here.name) != here.relative_to(here.parents[2]).as_posix():
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40")


def _git(*arguments: str) -> str | None:
    # Ignore settings of a surrounding hook or of an untrusted repository: GIT_ variables, and the fsmonitor command.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
