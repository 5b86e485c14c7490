"""Write a report as a folder of index.html and data files; an existing one is rewritten only if its inputs have changed.

<store>/reports/<run>/    index.html, report.json (fingerprint of the inputs), data/, thumbs/
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
    """Pin nothing, so that artifacts of reports are kept as long as other unnamed ones."""


def write_report(
    runs: Sequence[ReportedRun],
    sources: Sources,
    folder: Path | None = None,
    pin: Callable[[str | None, str, str], None] = no_pin,
) -> Path:
    """Write the report of one run or two and return the path of its page; an existing report is kept if it is up to date.

    Args:
        sources: Places of the videos, whose aspect ratio is used for pictures; the videos may be missing.
        folder: Target folder; None for the store, under the run's name.
        pin: See `cache.names.Pins.add`.

    Raises:
        SevilaError: The folder holds other files, or an artifact is damaged.
        OSError: The folder cannot be written.
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
            if folder is None:  # we hold the lock, so that partial folders in the store belong to killed processes
                for partial in target.parent.glob(f".{target.name}.{'?' * 8}.part"):
                    shutil.rmtree(partial)
            _replace(target, runs, thumbnails, key)
    return target / INDEX


def _thumbnails(runs: Sequence[ReportedRun], sources: Sources, pin: Callable[..., None]) -> dict[str, Thumbnails]:
    """Return the thumbnails of each sampling that the settings use, by the id of its frames."""
    samplings = {setting.frames: setting.questions for run in runs for setting in run.settings}
    return {
        frames: thumbnails_of(runs[0].store, frames, questions, sources, pin) for frames, questions in samplings.items()
    }


def _key(runs: Sequence[ReportedRun], thumbnails: dict[str, Thumbnails]) -> str:
    """Return the fingerprint of a report's inputs: content of artifacts, and the code and texts of the page."""
    code = {path.name: file_digest(path) for path in [*sorted(HERE.iterdir()), PAPER] if path.is_file()}
    steps = []
    for run in runs:
        pins = [[*pin, run.store.record(pin.id).content] for pin in run.pins if run.store.exists(pin.id)]
        steps.append([run.title, run.recipe, pins])
    return fingerprint([code, steps, sorted(str(artifact.id) for artifact in thumbnails.values())])


def _key_of(folder: Path) -> str:
    try:
        return str(read_note(folder / NOTE)["key"])
    except (OSError, KeyError, CorruptArtifactError):
        return ""


def _refuse_others(folder: Path) -> None:
    """Raise `SevilaError` if the folder, which will be replaced, holds anything but a report."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not _key_of(folder):
        raise SevilaError(f"{folder}: exists and is no report; give a new or empty folder")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not OURS.fullmatch(name):
            raise SevilaError(f"{folder}: holds {name!r}, which is no part of a report; give a new or empty folder")


def _replace(target: Path, runs: Sequence[ReportedRun], thumbnails: dict[str, Thumbnails], key: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", suffix=".part", dir=target.parent) as work:
        new = Path(work) / "new"  # a subfolder, because the temporary folder itself is readable by its owner only
        new.mkdir()
        _write(new, runs, thumbnails, key)
        _refuse_others(target)  # files may have been added meanwhile
        if target.exists():
            target.rename(Path(work) / "old")
        new.rename(target)


def _write(folder: Path, runs: Sequence[ReportedRun], thumbnails: dict[str, Thumbnails], key: str) -> None:
    from reports.page.examples import Examples
    from reports.page.render import page

    examples = Examples(runs)
    meta = examples.write(folder / "data")
    numbers, n_coded = {video_id: number for number, video_id in enumerate(examples.videos)}, 0
    for number, frames in enumerate(examples.frames):
        shown = {video: rows for (sampling, video), rows in examples.shown_rows.items() if sampling == frames}
        n_coded += write_pictures_of(thumbnails[frames], number, numbers, shown, folder / "thumbs")
    (folder / INDEX).write_text(page(runs, meta, n_coded), encoding="utf-8")
    write_note(folder / NOTE, {"key": key})


def _name_of(runs: Sequence[ReportedRun]) -> str:
    names = [re.sub(r"[^\w.-]+", "_", run.title).strip(".") or "run" for run in runs]
    return "-against-".join(names[::-1])
