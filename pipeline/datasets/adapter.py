"""The interface of a data set's module, and how its annotation files are found."""

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
    """An annotation file by its name as downloaded, and how many questions its owners say it has (None: they do not)."""

    name: str
    n_questions: int | None


@dataclass(frozen=True)
class About:
    """Facts that people need to use a data set.

    Attributes:
        title: the name its owners give it.
        splits: per split, the file that holds it; several where there are several published layouts, any one of them.
        subtitles: where its files of subtitles lie beside the annotations, any one of these folders; none: nobody reads them.
        same_questions: whether all layouts of a split hold the same questions: of several side by side the first is read.
        beside: further files that every split needs.
        videos: how videos are named below the videos folder.
        published: where the owners publish annotations and videos.
        licence: the licence of the annotations as far as the owners state one.
        prompt: the kind of its questions, a name of a prompt (pipeline/models/prompts.py); empty where a file may hold any.
        name_says: what more the name of a file says, for example which video: names are part of its identity then. None: nothing.
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
        """Every file of every split."""
        for alternatives in self.splits.values():
            yield from alternatives


class Adapter(Protocol):
    """The interface of a data set's module. `path` is the data set's folder, or one annotation file of it.

    It may have these as well:
        files(path, split): the files it reads, where they are not those that `find_files` finds.
        group(question_type): the group under which results of this type are reported.
        headline: the figure that stands for the whole data set, where that is the unweighted mean of the groups' accuracies and
            not the accuracy over all questions; a function of the types of its questions where files of several data sets
            are read.
        pooled_types: further rows of the data set's own reports, each with the question types it pools.
    """

    name: str
    about: About

    def read(self, path: Path, split: str) -> Annotations:
        """The split's questions, their videos, and the rows that could not be used."""


def files_of(adapter: Adapter, path: Path, split: str) -> list[Path]:
    """Every annotation file that `adapter.read` reads, so that its digest can enter an identity."""
    files: list[Path] = getattr(adapter, "files", partial(find_files, adapter.about))(path, split)
    return files


def group_of(adapter: Adapter, question_type: str) -> str:
    """The group under which results of this question type are reported; "" for none."""
    group: Callable[[str], str] = getattr(adapter, "group", lambda question_type: "")
    return group(question_type)


def headline_of(adapter: Adapter, question_types: Collection[str]) -> Headline:
    """The headline of `adapter` for a file whose questions are of these types."""
    headline: Headline | Callable[[Collection[str]], Headline] = getattr(adapter, "headline", "overall")
    return headline(question_types) if callable(headline) else headline


def pooled_types_of(adapter: Adapter) -> Mapping[str, Collection[str]]:
    """The question types of each further row of `adapter`'s reports."""
    pooled: Mapping[str, Collection[str]] = getattr(adapter, "pooled_types", {})
    return pooled


def find_files(about: About, path: Path, split: str) -> list[Path]:
    """The file of `split` in the folder `path`, or `path` itself if it is a file; then those that lie beside it.

    Raises MissingSourceError for an unknown split, a file that is not there, or two layouts of one split side by side.
    """
    suffixes = {Path(file.name).suffix for file in about.split_files()}
    if path.is_file():
        if path.suffix.lower() not in suffixes:
            wanted = " or ".join(sorted(suffixes))
            raise MissingSourceError(
                f"{path}: ends in {path.suffix or 'nothing'}; {wanted} was wanted for {about.title}"
            )
        owners = [name for name, files in about.splits.items() if path.name in {each.name for each in files}]
        if owners and split in about.splits and split not in owners:
            raise MissingSourceError(
                f"{path}: is split {owners[0]!r} of {about.title}, but split {split!r} is asked for; give that file, "
                f"or --set list_questions.split={owners[0]}"
            )
        file, folder = path, path.parent
    else:
        file, folder = _file_of_split(about, path, split), path
    beside = [folder / name for name in about.beside]
    for other in beside:
        if not other.is_file():
            state = f"is {kind_of(other)}" if kind_of(other) else "missing"
            raise MissingSourceError(
                f"{other}: {state}; {about.title} needs that file beside {file.name}, as downloaded"
            )
    return [file, *beside]


def _file_of_split(about: About, folder: Path, split: str) -> Path:
    if split not in about.splits:
        raise MissingSourceError(f"{about.title} has no split {split!r}; there are: {', '.join(about.splits)}")
    names = [file.name for file in about.splits[split]]
    present = [folder / name for name in names if (folder / name).is_file()]
    if len(present) > 1 and not about.same_questions:
        raise MissingSourceError(
            f"{folder}: holds {' and '.join(file.name for file in present)}, two layouts of split {split!r}; "
            "give the path of the one that is meant"
        )
    if not present:
        refuse_others(folder, names)
        wanted = " or ".join(names)
        known = sorted(file.name for file in about.split_files() if (folder / file.name).is_file())
        content = (", ".join(known) or "no file of this data set") if folder.is_dir() else "no such folder"
        raise MissingSourceError(f"{folder / wanted}: missing (found: {content}); {about.title} is read as downloaded")
    return present[0]


def refuse_others(folder: Path, names: Iterable[str]) -> None:
    """Raises MissingSourceError where a folder or a pipe has the name of a file."""
    for name in names:
        if kind_of(folder / name):
            raise MissingSourceError(f"{folder / name}: it is {kind_of(folder / name)}, a file was wanted")
