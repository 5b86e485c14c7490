"""Errors a user can fix. Each message says what was found, what was wanted and how to fix it."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path

# What a machine does to a run, as opposed to a file that somebody forgot or a mistake of ours.
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
    """A machine ended the work (its memory or disk is full, somebody killed it): the same may well succeed later or elsewhere."""


class InputChangedError(MachineError):
    """An input was rebuilt while something was made from it, which is therefore not kept: the same will succeed later."""


class FingerprintError(SevilaError):
    """A value cannot be hashed stably, so it cannot be part of an identity."""


class SchemaError(SevilaError):
    """A table does not have the columns its schema declares."""


class CorruptArtifactError(SevilaError):
    """Stored bytes do not match their checksum or record."""


class StoreError(SevilaError):
    """The store cannot do what was asked: an unknown id, an ambiguous prefix, a foreign directory."""


class LinkError(StoreError):
    """A link stands where a store, or a place that stores are shared through, has a file or folder of its own."""


class MissingSourceError(SevilaError):
    """A named data set or weight folder is not on this machine, or is not what its name promises."""


class RecipeError(SevilaError):
    """A recipe names an unknown section or key, or gives a value of the wrong type."""


class CheckpointError(SevilaError):
    """Weights do not fit the model: missing, unexpected or misshapen tensors, or a tokenizer that does not fit."""


class DecodeError(SevilaError):
    """A video cannot be decoded because of its bytes; the message is the reason its row carries."""


class HalfwayError(DecodeError):
    """decord failed after it had given frames: they are dropped, and PyAV is to read the video from its beginning."""


class DecoderDeathError(DecodeError):
    """A decoder hung or crashed at a video: because of its bytes if that repeats in fresh processes."""


class ReadingError(MachineError):
    """A video could not be read for a reason that is not in its bytes: it is gone or changed, its disk or decoder fails."""


class ComparisonError(SevilaError):
    """Two runs cannot be compared: they share no question, or the right options are not known."""


def repair_hint(path: Path | str) -> str:
    """Return the way out of damage to a file of a store, by where it lies; ends the sentence that says what is wrong."""
    where = Path(path).with_suffix("").parts[-7:]
    if "artifacts" in where[:-1]:  # <root>/artifacts/<id>/...
        name = where[where.index("artifacts") + 1]
    elif "pool" in where[:-4]:  # <root>/pool/<space>/<key[:2]>/<key>/<part>.h5
        space, _, key, part = where[where.index("pool") + 1 :]
        name = f"{space}/{key}/{part}"
    else:
        return "delete it, then run the same command again"
    return f"`sevila cache verify {name} --drop` removes just what is damaged, and the next run of its recipe makes it again"


def sentence(error: OSError) -> str:
    """Return what the machine refused, in one sentence for the user, and what to do then."""
    what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    return f"{what}; when the cause is gone, run the same command again: what is finished stays"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean ...?)" with the known word that is, or begins, most like this one; or "" where none does."""

    def likeness(other: str) -> float:
        whole, beginning = (
            difflib.SequenceMatcher(None, part, word).ratio() for part in (other, other[: len(word) + 1])
        )
        return max(whole, beginning - 0.1 if beginning > 0.75 else 0.0)

    close = max(known, key=lambda other: (likeness(other), other), default="")
    return f" (did you mean {close!r}?)" if close and likeness(close) >= 0.5 else ""
