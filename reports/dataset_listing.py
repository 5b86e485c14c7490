"""The output of `sevila datasets`: each data set's files, its owners, and which of the files are on this machine."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache.errors import MissingSourceError, SevilaError
from cache.printable import counted, printable
from pipeline.datasets.adapter import Adapter
from pipeline.datasets.question import Video
from pipeline.datasets.registry import adapter_named, adapter_names, read_split

FindPlace = Callable[[str, str], Path | None]  # (annotations or videos, data set) -> folder or file; None: not given
MissingVideos = Callable[[str, Iterable[Video]], list[str]]  # (data set, its videos) -> ids of missing ones

HOW_TO_PLACE = """\
Give the paths of a data set with --annotations NAME=FOLDER and --videos NAME=FOLDER, in SEVILA_ANNOTATIONS and
SEVILA_VIDEOS (NAME=FOLDER), or in sevila.toml under [annotations] and [videos]."""
N_SHOWN = 3  # of rejected rows and missing videos


def overview(place: FindPlace) -> str:
    """Describe every data set, without reading the content of files."""
    parts = [_described_or_problem(name, place) for name in adapter_names()]
    return "\n\n".join(
        [*parts, f"{HOW_TO_PLACE}\n`sevila datasets NAME` also reads its files and looks for its videos."]
    )


def details(names: Iterable[str], place: FindPlace, missing_videos: MissingVideos) -> str:
    """Describe the named data sets and the content of each available file: questions, rejected rows, available videos.

    Raises RecipeError for an unknown name.
    """
    parts = []
    for adapter in map(adapter_named, names):
        lines = [line for content in _contents(adapter, place, missing_videos) for line in _content_lines(content)]
        parts.append("\n".join([_described(adapter, place), *map(printable, lines)]))
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


def _described_or_problem(name: str, place: FindPlace) -> str:
    try:
        return _described(adapter_named(name), place)
    except SevilaError as error:  # a broken data set of another package must not hide the others
        return f"{name}: {error}"


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


@dataclass(frozen=True)
class FileContent:
    """The content of an available annotation file.

    Attributes:
        n_known: questions with a known answer.
        n_moments: questions with true moments.
        n_videos: different video ids; two may be the same file.
        rejected: line and reason of each rejected row.
        missing_videos: ids of missing videos; None: their folder is not given.
        problem: why the file cannot be read; then nothing else is known.
    """

    path: str
    n_questions: int = 0
    n_known: int = 0
    n_moments: int = 0
    n_videos: int = 0
    rejected: Sequence[tuple[int, str]] = ()
    missing_videos: Sequence[str] | None = None
    problem: str = ""


def listing_content(names: Iterable[str], place: FindPlace, missing_videos: MissingVideos) -> list[dict[str, Any]]:
    """Return the named data sets, or all, as JSON values; with the content of files only if names are given."""
    names, values = list(names), list[dict[str, Any]]()
    for name in names or adapter_names():
        try:
            values.append(_values(adapter_named(name), place))
        except SevilaError as error:
            if names:
                raise
            values.append({"dataset": name, "problem": str(error)})
            continue
        contents = _contents(adapter_named(name), place, missing_videos) if names else None
        values[-1]["content"] = contents and [asdict(content) for content in contents]
    return values


def _values(adapter: Adapter, place: FindPlace) -> dict[str, Any]:
    return {
        "dataset": adapter.name,
        **{key: getattr(adapter.about, key) for key in ("title", "published", "licence", "videos")},
        "annotations_place": _path_text(place("annotations", adapter.name)),
        "videos_place": _path_text(place("videos", adapter.name)),
        "files": [
            {"split": split, "file": file.name, "n_questions": file.n_questions}
            | {"here": _presence(adapter, place, file.name) == "present"}
            for split, alternatives in adapter.about.splits.items()
            for file in alternatives
        ],
    }


def _path_text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _contents(adapter: Adapter, place: FindPlace, missing_videos: MissingVideos) -> list[FileContent]:
    path = place("annotations", adapter.name)
    if path is None or not path.exists():
        return []
    files = [path / file.name for file in adapter.about.split_files() if (path / file.name).is_file()]
    if path.is_file() or not adapter.about.splits:
        files = [path]
    return [_content(adapter, file, missing_videos) for file in files]


def _content(adapter: Adapter, file: Path, missing_videos: MissingVideos) -> FileContent:
    try:
        annotations = read_split(adapter, file, "")  # a file needs no split
    except SevilaError as error:
        return FileContent(str(file), problem=str(error))
    missing: Sequence[str] | None = None
    with suppress(MissingSourceError):
        missing = missing_videos(adapter.name, annotations.videos)
    return FileContent(
        str(file),
        len(annotations.questions),
        sum(question.answer_index is not None for question in annotations.questions),
        sum(bool(question.moments or question.moment_frames) for question in annotations.questions),
        len(annotations.videos),
        [(rejected.line, str(rejected.reason)) for rejected in annotations.rejected],
        missing,
    )


def _content_lines(content: FileContent) -> list[str]:
    if content.problem:
        return [f"  {content.problem}"]
    lines = [
        f"  {Path(content.path).name}: {counted(content.n_questions, 'questions')}, {content.n_known:,} with a known answer, "
        f"{content.n_moments:,} with moments, about {counted(content.n_videos, 'videos')}; "
        f"{counted(len(content.rejected), 'rows')} rejected"
    ]
    lines += [f"    line {line}: {reason}" for line, reason in content.rejected[:N_SHOWN]]
    if content.missing_videos is None:
        return lines
    missing = content.missing_videos
    names = f": {', '.join(missing[:N_SHOWN])}{', ...' if len(missing) > N_SHOWN else ''}" if missing else ""
    return [*lines, f"    {counted(content.n_videos - len(missing), 'videos')} found, {len(missing):,} missing{names}"]
