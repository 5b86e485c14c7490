"""Errors a user can fix. Each message names the thing, what was found, what was expected, and the way out."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path

# Errors of the machine, as opposed to missing files or bugs.
OF_THE_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ENOENT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,  # no further process
    errno.ENODEV,
    errno.ENXIO,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EREMOTEIO,
}


class SevilaError(ValueError):
    """Base of every error that a user can fix; the command line prints it without a traceback."""


class MachineError(SevilaError):
    """The machine stopped the work (memory or disk full, process killed): a retry, later or elsewhere, may succeed."""


class InputChangedError(MachineError):
    """An input was rebuilt while an artifact was made from it, which is discarded: a retry will succeed."""


class FingerprintError(SevilaError):
    """A value cannot be hashed stably, so it cannot be part of an identity."""


class SchemaError(SevilaError):
    """A table does not have the columns its schema declares."""


class CorruptArtifactError(SevilaError):
    """Stored bytes do not match their checksum or record."""


class StoreError(SevilaError):
    """A request that the store cannot fulfil: an unknown id, an ambiguous prefix, a foreign directory."""


class LinkError(StoreError):
    """A symbolic link in place of a file or folder of a store or remote."""


class MissingSourceError(SevilaError):
    """A named data set or weight folder is not on this machine, or has the wrong content."""


class RecipeError(SevilaError):
    """A recipe names an unknown section or key, or gives a value of the wrong type."""


class CheckpointError(SevilaError):
    """Weights do not fit the model: missing, unexpected or misshapen tensors, or a tokenizer that does not fit."""


class DecodeError(SevilaError):
    """A video cannot be decoded because of its bytes; the message becomes the reason in its row."""


class HalfwayError(DecodeError):
    """decord failed after it had returned frames: they are dropped, and PyAV reads the video from its beginning."""


class DecoderDeathError(DecodeError):
    """A decoder hung or crashed on a video; repeated in fresh processes, the cause is the video's bytes."""


class ReadingError(MachineError):
    """A video cannot be read for a reason outside its bytes: it is gone or changed, or its disk or decoder fails."""


class ComparisonError(SevilaError):
    """Two runs cannot be compared: they share no question, or the right options are not known."""


def repair_hint(path: Path | str) -> str:
    """Return how to repair a damaged file of a store, by its path; ends the sentence that describes the damage."""
    parts = Path(path).with_suffix("").parts[-7:]
    if id := _artifact_of(path):
        name = id
    elif "pool" in parts[:-4]:  # <root>/pool/<space>/<key[:2]>/<key>/<part>.h5
        space, _, key, part = parts[parts.index("pool") + 1 :]
        name = f"{space}/{key}/{part}"
    else:
        return "delete it, then run the same command again"
    return f"`sevila cache verify {name} --drop` removes only the damage, and the next run of its recipe makes it again"


def rebuild_hint(path: Path | str) -> str:
    """Return how to replace a file of a store whose content no stage wrote, though it is as its record says."""
    stage = _artifact_of(path).partition("-")[0]
    return f"`sevila stage {stage} RECIPE --again` rebuilds it" if stage else "restore it, or remove this row"


def _artifact_of(path: Path | str) -> str:
    parts = Path(path).with_suffix("").parts[-7:]
    return parts[parts.index("artifacts") + 1] if "artifacts" in parts[:-1] else ""  # <root>/artifacts/<id>/...


def sentence(error: OSError) -> str:
    """Return an error of the machine as one sentence for the user, with the way out."""
    subject = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    return f"{subject}; remove the cause and run the same command again: finished work is kept"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean ...?)" with the known word that is most similar, whole or at its beginning; "" if none is."""

    def likeness(other: str) -> float:
        whole, beginning = (
            difflib.SequenceMatcher(None, part, word).ratio() for part in (other, other[: len(word) + 1])
        )
        return max(whole, beginning - 0.1 if beginning > 0.75 else 0.0)

    close = max(known, key=lambda other: (likeness(other), other), default="")
    return f" (did you mean {close!r}?)" if close and likeness(close) >= 0.5 else ""
