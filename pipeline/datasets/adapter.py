"""The interface of a data set's module, and the search for its annotation files."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from cache.errors import MissingSourceError
from cache.files import kind_of
from pipeline.datasets.question import Annotations

Headline = Literal["overall", "mean_of_groups"]


@dataclass(frozen=True)
class SplitFile:
    """An annotation file's name as downloaded, and its published number of questions (None: not published)."""

    name: str
    n_questions: int | None


@dataclass(frozen=True)
class About:
    """The facts needed to use a data set.

    Attributes:
        title: the owners' name of the data set.
        splits: by split, its file; several files are alternative published layouts.
        subtitles: alternative folders of subtitle files beside the annotations; empty: subtitles are not supported.
        same_questions: whether all layouts of a split hold the same questions, so that the first of several is read.
        beside: additional files that every split needs.
        videos: the names of videos below the videos folder.
        published: where the owners publish annotations and videos.
        licence: the licence of the annotations, if the owners state one.
        prompt: the kind of its questions, a name of a prompt (pipeline/models/prompts.py); empty if a file may hold any kind.
        name_says: returns what the name of a file states, such as its video, which then enters the identity. None: nothing.
    """

    title: str
    splits: Mapping[str, tuple[SplitFile, ...]]
    videos: str
    published: str
    licence: str
    prompt: str
    beside: tuple[str, ...] = ()
    name_says: Callable[[str], list[str]] | None = None
    same_questions: bool = False
    subtitles: tuple[str, ...] = ()

    def split_files(self) -> Iterator[SplitFile]:
        """Yield every file of every split."""
        for alternatives in self.splits.values():
            yield from alternatives


class Adapter(Protocol):
    """The interface of a data set's module. `path` is the data set's folder, or one annotation file of it.

    Optional members:
        files(path, split): the files it reads, if not those of `find_files`.
        group(question_type): the group under which results of this type are reported.
        headline: "mean_of_groups" if the data set reports the unweighted mean of the groups' accuracies and not the accuracy
            over all questions; a function of the question types if it reads files of several data sets.
        pooled_types: additional rows of the data set's reports, each with the question types it pools.
    """

    name: str
    about: About

    def read(self, path: Path, split: str) -> Annotations:
        """Return the split's questions, their videos, and the rejected rows."""


def files_of(adapter: Adapter, path: Path, split: str) -> list[Path]:
    """Return every annotation file that `adapter.read` reads; their digests enter the identity."""
    files: list[Path] = getattr(adapter, "files", partial(find_files, adapter.about))(path, split)
    return files


def group_of(adapter: Adapter, question_type: str) -> str:
    """Return the group under which results of this question type are reported; "" for none."""
    group: Callable[[str], str] = getattr(adapter, "group", lambda question_type: "")
    return group(question_type)


def headline_of(adapter: Adapter, question_types: Collection[str]) -> Headline:
    """Return the headline of `adapter` for questions of these types."""
    headline: Headline | Callable[[Collection[str]], Headline] = getattr(adapter, "headline", "overall")
    return headline(question_types) if callable(headline) else headline


def pooled_types_of(adapter: Adapter) -> Mapping[str, Collection[str]]:
    """Return the question types of each additional row of `adapter`'s reports."""
    pooled: Mapping[str, Collection[str]] = getattr(adapter, "pooled_types", {})
    return pooled


def find_files(about: About, path: Path, split: str) -> list[Path]:
    """Return the file of `split` in the folder `path`, or `path` if it is a file; then the files that it needs beside it.

    Raises MissingSourceError for an unknown split, a missing file, or two layouts of one split side by side.
    """
    suffixes = {Path(file.name).suffix for file in about.split_files()}
    if path.is_file():
        if path.suffix.lower() not in suffixes:
            expected = " or ".join(sorted(suffixes))
            raise MissingSourceError(
                f"{path}: ends in {path.suffix or 'nothing'}; expected {expected} for {about.title}"
            )
        splits = [name for name, files in about.splits.items() if path.name in {file.name for file in files}]
        if splits and split in about.splits and split not in splits:
            raise MissingSourceError(
                f"{path}: is split {splits[0]!r} of {about.title}, but split {split!r} is asked for; give that file, "
                f"or --set list_questions.split={splits[0]}"
            )
        file, folder = path, path.parent
    else:
        file, folder = _file_of_split(about, path, split), path
    companions = [folder / name for name in about.beside]
    for companion in companions:
        if not companion.is_file():
            state = f"is {kind_of(companion)}" if kind_of(companion) else "missing"
            raise MissingSourceError(
                f"{companion}: {state}; {about.title} needs that file beside {file.name}, as downloaded"
            )
    return [file, *companions]


def _file_of_split(about: About, folder: Path, split: str) -> Path:
    if split not in about.splits:
        raise MissingSourceError(f"{about.title} has no split {split!r}; there are: {', '.join(about.splits)}")
    names = [file.name for file in about.splits[split]]
    present = [folder / name for name in names if (folder / name).is_file()]
    if len(present) > 1 and not about.same_questions:
        raise MissingSourceError(
            f"{folder}: holds {' and '.join(file.name for file in present)}, two layouts of split {split!r}; "
            "give the path of one of them"
        )
    if not present:
        refuse_non_files(folder, names)
        other_files = sorted(file.name for file in about.split_files() if (folder / file.name).is_file())
        content = (", ".join(other_files) or "no file of this data set") if folder.is_dir() else "no such folder"
        expected = folder / " or ".join(names)
        raise MissingSourceError(f"{expected}: missing (found: {content}); {about.title} is read as downloaded")
    return present[0]


def refuse_non_files(folder: Path, names: Iterable[str]) -> None:
    """Raise MissingSourceError if a folder or a pipe has one of these names."""
    for name in names:
        if kind_of(folder / name):
            raise MissingSourceError(f"{folder / name}: is {kind_of(folder / name)}; expected a file")
