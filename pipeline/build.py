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
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cache.errors import MissingSourceError
from cache.files import disk_errors
from cache.store import Record
from pipeline.output import Output, ShardedOutput
from pipeline.stage import Artifact, Config, RunContext, Stage

log = logging.getLogger("sevila")

LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "decord", "av", "h5py", "pyarrow")


def build(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> Artifact:
    """Return what `stage` makes of `cfg` and `inputs`: from the store if it is there, else by running the stage.

    Raises:
        MissingSourceError: an input is not on this machine.
    """
    id = stage.artifact_id(cfg, inputs)
    if id is not None and (run.store.exists(id) or run.store.finish(id)):
        log.info("%s: reused %s", stage.name, id)
        return stage.output(run.store, id)
    for name, value in zip(stage.inputs, inputs, strict=True):
        if value is not None and value.problem:
            raise MissingSourceError(f"{stage.name} needs {name}: {value.problem}")
    assert id is not None, f"{stage.name}: an input has neither an identity nor a problem"
    read = ", ".join(
        f"{name} {value.id}" for name, value in zip(stage.inputs, inputs, strict=True) if value is not None
    )
    log.info("%s: reads %s", stage.name, read or "nothing but its config")
    started = datetime.now(UTC)
    if stage.sharded:
        _run(stage, cfg, run, inputs, ShardedOutput(run.store, id, stage), id, started)
    else:
        with run.store.lock(f"{id}/build"):
            if not (run.store.exists(id) or run.store.finish(id)):
                folder = run.store.partial(id)
                if not stage.resumes:
                    shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True, exist_ok=True)
                _run(stage, cfg, run, inputs, Output(folder, stage), id, started)
    return stage.output(run.store, id)


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
            **provenance(run, started),
            **out.notes(),
        )
        run.store.publish(record)
    _tell(out, id, (datetime.now(UTC) - started).total_seconds())


def provenance(run: RunContext, started: datetime) -> dict[str, Any]:
    """Return what a record says of where, when and with what something was made that is finished now."""
    return {
        "libraries": _library_versions(),
        "git_revision": _git_revision(),
        "host": platform.node(),
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
    peak: dict[str, Any] = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes}
    peak["device"] = "cpu"
    torch = sys.modules.get("torch")  # a stage that did not need torch must not pay for its import
    if torch is not None and run.torch_device().startswith("cuda"):
        peak["device"] = f"{run.torch_device()} {torch.cuda.get_device_name(run.torch_device())}"
        peak["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(run.torch_device())
    return peak


def _library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_revision() -> str | None:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=os.path.dirname(os.path.abspath(__file__)),
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
