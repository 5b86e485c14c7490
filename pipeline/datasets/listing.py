"""The text of `sevila datasets`: each data set's files, its owners, and which of the files are on this machine."""

from collections.abc import Callable, Iterable
from pathlib import Path

from cache.errors import MissingSourceError, SevilaError
from cache.printable import printable
from pipeline.datasets.adapter import Adapter
from pipeline.datasets.question import Video
from pipeline.datasets.registry import adapter_named, adapter_names

FindPlace = Callable[[str, str], Path | None]  # (annotations or videos, data set) -> folder or file; None: nobody said
MissingVideos = Callable[[str, Iterable[Video]], list[str]]  # (data set, its videos) -> ids of those that are not here

HOW_TO_PLACE = """\
Say where a data set lies with --annotations NAME=FOLDER and --videos NAME=FOLDER, in SEVILA_ANNOTATIONS and
SEVILA_VIDEOS (NAME=FOLDER), or in sevila.toml under [annotations] and [videos]."""
SHOWN = 3


def overview(place: FindPlace) -> str:
    """Every data set; nothing is read but the names of files."""
    parts = [_described(adapter, place) for adapter in map(adapter_named, adapter_names())]
    return "\n\n".join(
        [*parts, f"{HOW_TO_PLACE}\n`sevila datasets NAME` also reads its files and looks for its videos."]
    )


def details(names: Iterable[str], place: FindPlace, missing_videos: MissingVideos) -> str:
    """The named data sets, and what every file that is here holds: questions, rejected rows, videos found.

    Raises RecipeError for an unknown name.
    """
    parts = []
    for adapter in map(adapter_named, names):
        parts.append(
            "\n".join([_described(adapter, place), *map(printable, _contents(adapter, place, missing_videos))])
        )
    return "\n\n".join([*parts, HOW_TO_PLACE])


def _described(adapter: Adapter, place: FindPlace) -> str:
    about = adapter.about
    lines = [
        f"{adapter.name}: {about.title}",
        f"  published    {about.published}",
        f"  licence      {about.licence}",
        f"  prompt       {about.prompt or 'multiple_choice, next_event or moment: as the questions are'}",
        f"  annotations  {_placed(place, 'annotations', adapter.name)}",
    ]
    for split, alternatives in about.splits.items():
        for file in alternatives:
            size = "" if file.n_questions is None else f"{file.n_questions:,} questions"
            lines.append(f"    {split:15}  {file.name:34} {size:18} {_presence(adapter, place, file.name)}".rstrip())
    lines += [f"    {'':15}  {name:34} {'':18} {_presence(adapter, place, name)}".rstrip() for name in about.beside]
    return "\n".join([*lines, f"  videos       {_placed(place, 'videos', adapter.name)}", f"    {about.videos}"])


def _placed(place: FindPlace, kind: str, name: str) -> str:
    path = place(kind, name)
    if path is None:
        return "not configured"
    return str(path) if path.exists() else f"{path}: nothing is there"


def _presence(adapter: Adapter, place: FindPlace, file_name: str) -> str:
    path = place("annotations", adapter.name)
    if path is None:
        return ""
    return "present" if ((path.parent if path.is_file() else path) / file_name).is_file() else "missing"


def _contents(adapter: Adapter, place: FindPlace, missing_videos: MissingVideos) -> list[str]:
    path = place("annotations", adapter.name)
    if path is None or not path.exists():
        return []
    files = [path / file.name for file in adapter.about.split_files() if (path / file.name).is_file()]
    if path.is_file() or not adapter.about.splits:
        files = [path]
    return [line for file in files for line in _content(adapter, file, missing_videos)]


def _content(adapter: Adapter, file: Path, missing_videos: MissingVideos) -> list[str]:
    try:
        table = adapter.read(file, "")  # of a file that is named the split need not be
    except SevilaError as error:
        return [f"  {error}"]
    n_known = sum(question.answer_index is not None for question in table.questions)
    n_moments = sum(bool(question.moments or question.moment_frames) for question in table.questions)
    lines = [
        f"  {file.name}: {len(table.questions):,} questions, {n_known:,} with a known answer, {n_moments:,} with moments, "
        f"about {len(table.videos):,} videos; {len(table.rejected):,} rows rejected"
    ]
    lines += [f"    line {rejected.line}: {rejected.reason}" for rejected in table.rejected[:SHOWN]]
    try:
        gone = missing_videos(adapter.name, table.videos)
    except MissingSourceError:
        return lines
    names = f": {', '.join(gone[:SHOWN])}{', ...' if len(gone) > SHOWN else ''}" if gone else ""
    return [*lines, f"    {len(table.videos) - len(gone):,} videos found, {len(gone):,} missing{names}"]
