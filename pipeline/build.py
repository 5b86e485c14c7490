"""Running a stage: reuse what the store holds, else run, and publish the result with its provenance."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import Timeout

from cache.errors import MissingSourceError
from cache.files import disk_errors
from cache.store import RECORD, Record, Store
from pipeline.output import Output, ShardedOutput
from pipeline.stage import Artifact, Config, RunContext, Stage

log = logging.getLogger("sevila")

LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "decord", "av", "h5py", "pyarrow")


Make = Callable[[Stage, Config, RunContext, Sequence[Any]], Artifact]  # `build`, or what has others do the work first
WHOLE = -1  # the number of the one piece of an artifact that is not made in shards; of one that is, all that is left


def pieces(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> list[int]:
    """Return what is left to make of an artifact, as numbers for `build_piece`; a plan of its shards is stored first.

    Once none is left, `build` only has to publish it. Raises like `build`.
    """
    id = _identity(stage, cfg, inputs)
    if run.store.exists(id) or run.store.finish(id):
        return []
    if not stage.sharded:
        return [WHOLE]
    out = ShardedOutput(run.store, id, stage, only=())
    stage.function(cfg, run, *inputs, out=out)
    return out.unfinished()


def build_piece(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any], piece: int) -> None:
    """Make one piece of an artifact, unless it is made, or being made by another process. Raises like `build`."""
    id = _identity(stage, cfg, inputs)
    if stage.sharded:
        with disk_errors(run.store.partial(id)):
            # Whoever helps begins at the other end than whoever is helped.
            only = pieces(stage, cfg, run, inputs)[::-1] if piece == WHOLE else [piece]
            if only:
                out = ShardedOutput(run.store, id, stage, only, hardware=lambda: _hardware(run))
                stage.function(cfg, run, *inputs, out=out)
        return
    try:
        run.store.lock(f"{id}/build").acquire(timeout=0).lock.release()
    except Timeout:  # nor wait for it: a worker, perhaps a GPU, would be of no use meanwhile
        log.info("%s: %s is being made by another process", stage.name, id)
    else:
        build(stage, cfg, run, inputs)


def build(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> Artifact:
    """Return what `stage` makes of `cfg` and `inputs`: from the store if it is there, else by running the stage.

    Raises:
        MissingSourceError: an input is not on this machine.
    """
    id = stage.artifact_id(cfg, inputs)
    if id is not None and (run.store.exists(id) or run.store.finish(id)):
        aside = run.store.aside(id)
        if (aside / RECORD).exists():  # a `rebuild` was killed at its end, or is at it
            _drop_stale(stage, run.store, Record.load(aside / RECORD))
            shutil.rmtree(aside, ignore_errors=True)
        log.info("%s: reused %s", stage.name, id)
        return stage.output(run.store, id)
    id = _identity(stage, cfg, inputs)
    read = ", ".join(
        f"{name} {value.id}" for name, value in zip(stage.inputs, inputs, strict=True) if value is not None
    )
    log.info("%s: reads %s", stage.name, read or "nothing but its config")
    started = datetime.now(UTC)
    if stage.sharded:
        out = ShardedOutput(run.store, id, stage, hardware=lambda: _hardware(run))
        _run(stage, cfg, run, inputs, out, id, started)
    else:
        with run.store.lock(f"{id}/build"):
            if not (run.store.exists(id) or run.store.finish(id)):
                folder = run.store.partial(id)
                if not stage.resumes:
                    shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True, exist_ok=True)
                _run(stage, cfg, run, inputs, Output(folder, stage), id, started)
    return stage.output(run.store, id)


def rebuild(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any], make: Make) -> Artifact:
    """Make an artifact anew by `make`, which is `build` or what has others do the work, and return it.

    The id promises its content to whatever was made from it: where that has changed, those are removed, to be made anew.
    """
    id, store = _identity(stage, cfg, inputs), run.store
    former = store.record(id) if store.exists(id) else None
    store.made_from(id)  # now: a damaged record is told before anything has changed
    with store.set_aside(id):
        made = make(stage, cfg, run, inputs)
        if former is not None:
            _drop_stale(stage, store, former)
    return made


def _drop_stale(stage: Stage, store: Store, former: Record) -> None:
    """Remove what was made from an artifact's former content, if it has another now."""
    if _content(stage, former) == _content(stage, store.record(former.id)):
        return
    stale = store.made_from(former.id)
    for name in stale:
        store.remove(name)
    if stale:
        told = ", ".join(stale)
        log.warning("%s: its content has changed, so what was made from it is removed: %s", former.id, told)


def _content(stage: Stage, record: Record) -> dict[str, Any]:
    """Return the files but those of measured tables, which differ between equal runs."""
    measured = stage.output.measured
    return {name: file for name, file in record.files.items() if name.split(".")[0].split("/")[0] not in measured}


def _identity(stage: Stage, cfg: Config, inputs: Sequence[Any]) -> str:
    """Return the artifact's id; raises `MissingSourceError` where an input is not on this machine."""
    for name, value in zip(stage.inputs, inputs, strict=True):
        if value is not None and value.problem:
            raise MissingSourceError(f"{stage.name} needs {name}: {value.problem}")
    id = stage.artifact_id(cfg, inputs)
    assert id is not None, f"{stage.name}: an input has neither an identity nor a problem"
    return id


def _run(
    stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any], out: Output, id: str, started: datetime
) -> None:
    with disk_errors(out.folder):
        stage.function(cfg, run, *inputs, out=out)
    with run.store.lock(f"{id}/publish"):
        if run.store.exists(id):
            log.info("%s: another process has finished %s", stage.name, id)
            return
        out.collect()
        record = Record(
            id=id,
            stage=stage.name,
            version=stage.version,
            kind=stage.output.kind,
            config=cfg.model_dump(mode="python"),
            inputs={
                name: value.id if value is not None else None for name, value in zip(stage.inputs, inputs, strict=True)
            },
            schemas={name: schema.as_dict() for name, schema in stage.output.tables.items()},
            **provenance(run, started) | out.notes(),
        )
        run.store.publish(record)
    _tell(out, id, (datetime.now(UTC) - started).total_seconds())


def provenance(run: RunContext, started: datetime) -> dict[str, Any]:
    """Return what a record says of where, when and with what something was made that is finished now."""
    return {
        "libraries": _library_versions(),
        "git_revision": _git_revision(),
        "started": started.isoformat(timespec="milliseconds"),
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **_hardware(run),
    }


def _tell(out: Output, id: str, seconds: float) -> None:
    made = ", ".join(f"{count} {name}" for name, count in out.rows.items()) or f"{len(out.files)} files"
    log.info("%s: made %s (%s) in %.1f s", out.stage.name, id, made, seconds)
    if out.dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in out.dropped.most_common())
        log.warning("%s: %d failed: %s", out.stage.name, out.dropped.total(), reasons)


def _hardware(run: RunContext) -> dict[str, Any]:
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    found: dict[str, Any] = {"host": platform.node(), "device": "cpu"}
    found["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
    torch = sys.modules.get("torch")  # a stage that did not need torch must not pay for its import
    # Nor take memory of a GPU, in a process that only publishes what others have made on theirs.
    if torch is not None and torch.cuda.is_initialized() and run.torch_device().startswith("cuda"):
        found["device"] = f"{run.torch_device()} {torch.cuda.get_device_name(run.torch_device())}"
        found["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(run.torch_device())
    return found


def _library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_revision() -> str | None:
    """Return the commit of the project's own repository, None where it is installed elsewhere, perhaps inside a stranger's."""
    here = Path(__file__).resolve()
    if _git("ls-files", "--full-name", here.name) != f"{here.parent.name}/{here.name}":
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40")


def _git(*arguments: str) -> str | None:
    # What a hook, or a repository that is not ours, says of where to look and what to run is none of our business.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
