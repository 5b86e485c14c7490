"""Locations of named data and weights on this machine, from the command line, the environment and sevila.toml, in this order."""

from __future__ import annotations

import json
import logging
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from cache.errors import MissingSourceError, RecipeError, did_you_mean
from cache.files import kind_of, write_for_user
from pipeline.engine.toml_file import read_toml

log = logging.getLogger("sevila")

KINDS = ("annotations", "videos", "weights", "scores")
OF_ASK = (
    "; only `sevila ask` takes the word demo: give the folder of the artifact train_backbone that `sevila demo` left"
)


class ServerPlace(NamedTuple):
    """An OpenAI-compatible server: the URL before `/chat/completions`, and its API key, or empty."""

    url: str
    key: str

    @classmethod
    def of_environment(cls, model: str) -> ServerPlace:
        """Return the server of a model: from `SEVILA_SERVERS`, else from the variables of OpenAI's client.

        A key is sent only to its own server: `OPENAI_API_KEY` to `OPENAI_BASE_URL`, and never to one of `SEVILA_SERVERS`.

        Raises:
            MissingSourceError: no server is configured, or the URL or key is invalid.
        """
        if url := _named_values("SEVILA_SERVERS").get(model):
            keys = _named_values("SEVILA_SERVER_KEYS")
            return cls._checked(f"SEVILA_SERVERS: {model}", url, "SEVILA_SERVER_KEYS", keys.get(model, ""))
        url, key = os.environ.get("OPENAI_BASE_URL", ""), os.environ.get("OPENAI_API_KEY", "")
        return cls._checked("OPENAI_BASE_URL", url.strip(), "OPENAI_API_KEY", key.strip())

    @classmethod
    def _checked(cls, url_origin: str, url: str, key_variable: str, key: str) -> ServerPlace:
        if not _is_address(url := url.rstrip("/")):
            raise MissingSourceError(
                f"{url_origin} is {url!r}: expected the address of the server that answers, such as http://127.0.0.1:8000/v1 "
                f"(and {key_variable} where it wants a key)"
            )
        if not (key.isascii() and key.isprintable()):  # not valid in an HTTP header; the key itself is not shown
            raise MissingSourceError(
                f"{key_variable} holds a character that no key has; expected printable ASCII alone"
            )
        return cls(url, key)


def _named_values(variable: str) -> dict[str, str]:
    """Parse an environment variable of the form `NAME=VALUE NAME=VALUE`; raise `MissingSourceError` if it is malformed."""
    values: dict[str, str] = {}
    for entry in os.environ.get(variable, "").split():
        name, _, value = entry.partition("=")
        if not name or not value:
            raise MissingSourceError(
                f"{variable}: entry {len(values) + 1} is not MODEL=VALUE; expected such entries with spaces between them"
            )
        values[name] = value
    return values


def _is_address(url: str) -> bool:
    """Return whether the HTTP client accepts a URL."""
    import httpx

    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
        return False
    try:
        address = httpx.URL(url)
        address.raw_host.decode("ascii").encode("idna")  # checks the lengths of labels, as a DNS look-up does
        return bool(address.host) and (address.port is None or 0 < address.port < 1 << 16)
    except (httpx.InvalidURL, ValueError):
        return False


class PlaceLookup:
    """The configured places by precedence: command line; `SEVILA_ANNOTATIONS`, `SEVILA_VIDEOS`, `SEVILA_WEIGHTS` and
    `SEVILA_SCORES`; `sevila.toml` (or the file named by `SEVILA_CONFIG`).

    A place is `NAME=PATH`, or a bare PATH for every name of its kind; variables separate several by the path separator.
    """

    def __init__(self, command_line: Mapping[str, Iterable[str]]) -> None:
        environment = {
            kind: filter(None, os.environ.get(f"SEVILA_{kind.upper()}", "").split(os.pathsep)) for kind in KINDS
        }
        # By precedence; a bare path on the command line takes precedence over a name in the file.
        self._levels: list[dict[tuple[str, str], Path]] = [
            {(kind, name): path for kind in KINDS for name, path in map(_split_place, command_line.get(kind, ()))},
            {(kind, name): path for kind in KINDS for name, path in map(_split_place, environment[kind])},
            _read_config_file(config_file()),
        ]

    def configured(self, kind: str, name: str) -> Path | None:
        """Return the path configured for the named source, or None."""
        places = [level.get((kind, name), level.get((kind, ""))) for level in self._levels]
        return next((place for place in places if place is not None), None)

    def named(self, kind: str) -> dict[str, Path]:
        """Return every configured path of a kind by name, without bare paths."""
        levels = reversed(self._levels)
        return {name: path for level in levels for (other, name), path in level.items() if other == kind and name}

    def all_of(self, kind: str) -> dict[str, Path]:
        """Return the place of every configured name of a kind; "" is the key of the bare path."""
        places = {name: self.configured(kind, name) for name in ("", *self.named(kind))}
        return {name: place for name, place in places.items() if place is not None}

    def is_on_command_line(self, kind: str, name: str) -> bool:
        """Return whether the command line gives a place for the named source."""
        return not self._levels[0].keys().isdisjoint({(kind, name), (kind, "")})

    def place(self, kind: str, name: str) -> Path:
        """Return the path of the named source, a file or a folder.

        Raises:
            MissingSourceError: no path is configured, or there is nothing usable; the message says how to configure one.
        """
        place = self.configured(kind, name)
        if place is None:
            names = sorted({other for level in self._levels for other_kind, other in level if other_kind == kind})
            others = f" (places were given for {', '.join(map(repr, names))})" if names else ""
            others = did_you_mean(name, names) + others
            raise MissingSourceError(
                f"no path is given for the {kind} {name!r} on this machine{others}: give `--{kind} {name}=PATH`, "
                f'set SEVILA_{kind.upper()}={name}=PATH, or write `{name} = "PATH"` under [{kind}] in sevila.toml'
            )
        try:
            place.stat()
        except (OSError, ValueError) as error:
            is_absent = isinstance(error, FileNotFoundError | NotADirectoryError)
            why = "nothing is there" if is_absent else f"it cannot be read: {getattr(error, 'strerror', None) or error}"
            hint = OF_ASK if (kind, place) == ("weights", Path("demo")) else ""
            raise MissingSourceError(f"the {kind} {name!r} should lie at {place}, but {why}{hint}") from error
        kind_there = kind_of(place)
        if kind_there not in ("", "a folder"):
            expected = "a folder" if kind == "videos" else "a file or a folder"
            raise MissingSourceError(
                f"the {kind} {name!r} should lie at {place}, but that is {kind_there}, not {expected}"
            )
        return place


def config_file() -> Path:
    """Return the path of the config file: SEVILA_CONFIG, or `sevila.toml` in the working directory."""
    return Path(os.environ.get("SEVILA_CONFIG", "sevila.toml"))


def write_weights_place(name: str, path: Path) -> Path:
    """Set the place of named weights in the config file, without other changes to it, and return its path.

    Raises:
        MissingSourceError: the file cannot be read.
        RecipeError: the edited file would not parse to the same content plus this place; the message gives the line to add.
    """
    file = config_file()
    if file.exists():
        _read_config_file(file)  # raises if it is invalid
    before = file.read_text(encoding="utf-8-sig") if file.exists() else ""
    line = f"{json.dumps(name, ensure_ascii=False)} = {json.dumps(str(path.absolute()), ensure_ascii=False)}"
    lines, heading = before.splitlines(), "[weights]"
    spellings = {name, json.dumps(name, ensure_ascii=False), f"'{name}'"}
    section = next((number for number, text in enumerate(lines) if text.strip() == heading), None)
    if section is None:
        lines += [*([""] if lines else []), heading, line]
    else:
        end = next((n for n in range(section + 1, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
        old = [n for n in range(section + 1, end) if lines[n].partition("=")[0].strip() in spellings]
        lines[slice(old[0], old[0] + 1) if old else slice(section + 1, section + 1)] = [line]
    text = "\n".join(lines) + "\n"
    expected = {
        **(tomllib.loads(before)),
        "weights": {**tomllib.loads(before).get("weights", {}), name: str(path.absolute())},
    }
    try:
        is_read_back = tomllib.loads(text) == expected
    except tomllib.TOMLDecodeError:
        is_read_back = False
    if not is_read_back:
        raise RecipeError(
            f"{file}: cannot be changed without changing more of it; write `{line}` under {heading} in it"
        )
    write_for_user(file, text.encode())
    return file


def write_first(text: str) -> Path:
    """Create the config file, and return its path; raise `RecipeError` if it exists."""
    path = config_file()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise RecipeError(f"{path}: exists already, and is not changed") from error
    return path


def refuse_unused(
    command_line: Mapping[str, Iterable[str]],
    used: Mapping[str, Collection[str]],
    idle: Mapping[str, Collection[str]] = {},
) -> None:
    """Raise if the command line gives a place for an unused name, which is likely misspelt.

    Args:
        command_line: the places of each kind, as `PlaceLookup` takes them.
        used: the names of each kind that the run reads.
        idle: names of each kind that are known but not read by this run: a place for one only logs a warning.

    Raises:
        RecipeError: names the place, and the names that are used.
    """
    for kind, places in command_line.items():
        names = sorted(used[kind])
        for place in places:
            name, _ = _split_place(place)
            if name in names or (names and not name):
                continue
            hint = did_you_mean(name, names)
            listed = ", ".join(f"`--{kind} {used_name}=PATH`" for used_name in names)
            problem = f"--{kind} {place}: {f'the name {name!r} is' if name else f'{kind} are'} not used here{hint}"
            if idle.get(kind) and (not name or name in idle[kind]):
                log.warning("%s; used are %s", problem, listed or "none")
            else:
                raise RecipeError(f"{problem}; expected {listed or f'no --{kind}'}")


def _read_config_file(path: Path) -> dict[tuple[str, str], Path]:
    try:
        content = read_toml(path)
    except FileNotFoundError:
        if "SEVILA_CONFIG" in os.environ:
            raise MissingSourceError(f"{path}: SEVILA_CONFIG names this file, but nothing is there") from None
        return {}
    except (OSError, ValueError) as error:
        raise MissingSourceError(
            f"{path}: not readable as TOML: {getattr(error, 'strerror', None) or error}"
        ) from error
    places = {}
    for kind, entries in content.items():
        if kind not in KINDS or not isinstance(entries, dict):
            raise MissingSourceError(f"{path}: section [{kind}] is not one of {', '.join(f'[{k}]' for k in KINDS)}")
        for name, place in entries.items():
            if not isinstance(place, str):
                raise MissingSourceError(f"{path}: {kind}.{name} is {place!r}, expected a path in quotes")
            places[kind, name] = path.absolute().parent / Path(place).expanduser()
    return places


def _split_place(place: str) -> tuple[str, Path]:
    """Split NAME=PATH. A path may contain "=": an existing path, or one that starts with /, . or ~, is a bare path."""
    name, separator, path = place.partition("=")
    if not (path if separator else place):  # most likely an unset variable; Path("") would be "."
        raise RecipeError(f"{place!r} names no place; expected NAME=PATH or a path")
    if not separator or name.startswith(("/", ".", "~")) or _exists(Path(place).expanduser()):
        return "", Path(place).expanduser()
    return name, Path(path).expanduser()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # such as a name that is too long
        return False
