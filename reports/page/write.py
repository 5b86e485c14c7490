"""Writing a report: a folder of index.html and data files, written again only where something has changed.

<store>/reports/<run>/    index.html, report.json (what it was written from), data/, thumbs/
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cache.errors import CorruptArtifactError, SevilaError
from cache.files import refuse_link
from cache.fingerprint import file_digest, fingerprint
from cache.notes import read_note, write_note
from pipeline.engine.sources import Sources
from reports.page.pictures import thumbnails_of, write_pictures_of
from reports.page.runs import ReportedRun
from reports.paper import PAPER
from stages.make_thumbnails import Thumbnails

log = logging.getLogger("sevila")

NOTE, INDEX = "report.json", "index.html"
OURS = re.compile(r"index\.html|report\.json|data|data/(page|index)-\d+\.js|thumbs|thumbs/\d+-\d+\.js")
HERE = Path(__file__).parent


def no_pin(id: str | None, stage: str, setting: str) -> None:
    """Pins nothing: what a report alone makes is kept as long as anything without a name."""


def write_report(
    runs: Sequence[ReportedRun],
    sources: Sources,
    folder: Path | None = None,
    pin: Callable[[str | None, str, str], None] = no_pin,
) -> Path:
    """Write the report of a run, or of two, and return the path of its page; what is there already is kept if it is the same.

    Args:
        sources: where the videos lie, for the shape they are shown in; they need not be at hand.
        folder: where to; None: into the store, under the run's name.
        pin: see `cache.names.Pins.add`.

    Raises:
        SevilaError: the folder holds other things, or an artifact is damaged.
        OSError: it cannot be written there.
    """
    store = runs[0].store
    target = folder.resolve() if folder is not None else store.root / "reports" / _name_of(runs)
    if folder is None:
        refuse_link(target, store.root)
    with store.lock(f"reports/{fingerprint(str(target.absolute()))}"):
        thumbnails = _thumbnails(runs, sources, pin)
        key = _key(runs, thumbnails)
        if _key_of(target) != key or not (target / INDEX).is_file():
            _refuse_others(target)
            if folder is None:  # of a process that was killed: the lock is ours, and so is what lies in a store
                for left_over in target.parent.glob(f".{target.name}.{'?' * 8}.part"):
                    shutil.rmtree(left_over)
            _replace(target, runs, thumbnails, key)
    return target / INDEX


def _thumbnails(runs: Sequence[ReportedRun], sources: Sources, pin: Callable[..., None]) -> dict[str, Thumbnails]:
    """Return the thumbnails of each sampling that a run's settings look at, by the id of its frames."""
    samplings = {setting.frames: setting.questions for run in runs for setting in run.settings}
    return {
        frames: thumbnails_of(runs[0].store, frames, questions, sources, pin) for frames, questions in samplings.items()
    }


def _key(runs: Sequence[ReportedRun], thumbnails: dict[str, Thumbnails]) -> str:
    """Return what a report is written from: artifacts by content, and the code and texts of the page."""
    code = {path.name: file_digest(path) for path in [*sorted(HERE.iterdir()), PAPER] if path.is_file()}
    steps = [
        [
            run.title,
            run.recipe,
            [[*pin, run.store.record(pin.id).content] for pin in run.pins if run.store.exists(pin.id)],
        ]
        for run in runs
    ]
    return fingerprint([code, steps, sorted(str(each.id) for each in thumbnails.values())])


def _key_of(folder: Path) -> str:
    try:
        return str(read_note(folder / NOTE)["key"])
    except (OSError, KeyError, CorruptArtifactError):
        return ""


def _refuse_others(folder: Path) -> None:
    """Raise `SevilaError` unless all that is there was written by us: it is going to be removed."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not _key_of(folder):
        raise SevilaError(f"{folder}: is there, and is no report; give a folder that is empty or new")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not OURS.fullmatch(name):
            raise SevilaError(
                f"{folder}: holds {name!r}, which is no part of a report; give a folder that is empty or new"
            )


def _replace(target: Path, runs: Sequence[ReportedRun], thumbnails: dict[str, Thumbnails], key: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", suffix=".part", dir=target.parent) as work:
        part = Path(work) / "new"  # a folder in it, as the temporary one may be read by nobody else
        part.mkdir()
        _write(part, runs, thumbnails, key)
        _refuse_others(target)  # what came meanwhile
        if target.exists():
            target.rename(Path(work) / "old")
        part.rename(target)


def _write(folder: Path, runs: Sequence[ReportedRun], thumbnails: dict[str, Thumbnails], key: str) -> None:
    from reports.page.examples import Examples
    from reports.page.render import page

    examples = Examples(runs)
    meta = examples.write(folder / "data")
    numbers, n_coded = {video_id: number for number, video_id in enumerate(examples.videos)}, 0
    for number, frames in enumerate(examples.frames):
        shown = {video: rows for (of, video), rows in examples.wanted_rows.items() if of == frames}
        n_coded += write_pictures_of(thumbnails[frames], number, numbers, shown, folder / "thumbs")
    (folder / INDEX).write_text(page(runs, meta, n_coded), encoding="utf-8")
    write_note(folder / NOTE, {"key": key})


def _name_of(runs: Sequence[ReportedRun]) -> str:
    names = [re.sub(r"[^\w.-]+", "_", run.title).strip(".") or "run" for run in runs]
    return "-against-".join(names[::-1])
