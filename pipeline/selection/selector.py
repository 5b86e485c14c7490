"""The contract of a selector: a function and a version; the inputs it needs, and its options, are read off the signature.

    @selector(version=1, source="BOLT, CVPR 2025")
    def bolt(scores: Scores, k: int, options: BoltOptions) -> Positions: ...

The T candidate frames of one question are in time order; positions index them, 0 to T - 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from cache.errors import RecipeError, SevilaError, did_you_mean
from pipeline.registry import failure
from pipeline.whole_numbers import whole_number

Positions = NDArray[np.int64]
Floats = NDArray[np.float64]

# What a selector may see beside `k` and its `options`, by the names of its parameters.
INPUTS = ("n_frames", "scores", "vectors", "seconds", "moments", "rng")
NAMED = {"vectors": "a vector of each frame", "seconds": "the frames' seconds", "moments": "the true moments"}
WANTED_SHAPES = {"scores": "[T]", "vectors": "[T, D]", "seconds": "[T]", "moments": "[G, 2]"}


class Options(BaseModel):
    """Base of a selector's options, all with defaults: immutable, no unknown names, no silent conversion, no nan."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class SeededOptions(Options):
    """Options of a selector that draws: with the question's id, the seed of its `rng`."""

    seed: int = Field(0, ge=0, description="seed of the draw; each question has a draw of its own")


@dataclass(frozen=True)
class Candidates:
    """The candidate frames of one question; None stands for what is not known of them.

    Attributes:
        n_frames: T.
        scores: [T], higher is better.
        vectors: [T, D], one a frame; compared by their cosine.
        seconds: [T], where the frames lie in the video.
        moments: [G, 2] in seconds, the true moments.
        question_id: what makes the draws of a seeded selector this question's own.
    """

    n_frames: int
    scores: Floats | None = None
    vectors: Floats | None = None
    seconds: Floats | None = None
    moments: Floats | None = None
    question_id: str = ""

    @classmethod
    def of(cls, n_frames: int | None = None, question_id: str = "", **arrays: ArrayLike | None) -> Candidates:
        """Return candidates from `scores`, `vectors`, `seconds` and `moments`, as far as known; T follows from the first three.

        Raises:
            SevilaError: another shape, numbers of frames that differ, or a value that is nan or infinite.
        """
        given = {name: _finite(name, values) for name, values in arrays.items() if values is not None}
        counts = {name: len(array) for name, array in given.items() if name != "moments"}
        counts |= {} if n_frames is None else {"n_frames": whole_number("n_frames", n_frames, at_least=0)}
        if len(set(counts.values())) != 1:
            numbers = ", ".join(f"{count} by {name}" for name, count in counts.items()) or "no number"
            raise SevilaError(f"candidate frames: {numbers}; one number of frames was wanted")
        return cls(next(iter(counts.values())), **given, question_id=question_id)


@dataclass(frozen=True)
class Selector:
    """A selector's declaration, made by `@selector`.

    Attributes:
        name: the function's, which is also its file's.
        version: raised when the same input gives other frames.
        source: the publication, or that there is none.
        needs: what it sees, of `INPUTS`.
        options: their class, with defaults and checks.
        repeats: it may choose a frame more than once.
    """

    name: str
    version: int
    source: str
    function: Callable[..., Positions]
    needs: tuple[str, ...]
    options: type[Options]
    repeats: bool

    def __call__(self, candidates: Candidates, k: int, options: Options | None = None) -> Positions:
        """Return the positions of at most `k` frames, ascending.

        Raises:
            SevilaError: k below 1, candidates of which something needed is not known, or options of another selector.
        """
        options = self.options() if options is None else options
        k = whole_number("k", k, at_least=1)
        if type(options) is not self.options:
            raise SevilaError(f"{self.name}: options are {type(options).__name__}; {self.options.__name__} wanted")
        given = {name: _read_only(getattr(candidates, name)) for name in self.needs if name != "rng"}
        for name, value in given.items():
            if value is None:
                raise SevilaError(f"{self.name}: needs {NAMED.get(name, name)}, which is not known here")
        if "rng" in self.needs and isinstance(options, SeededOptions):
            # Seeded by the question, so that another order or another set of questions changes nobody's frames.
            given["rng"] = np.random.default_rng([options.seed, *candidates.question_id.encode()])
        if self.options is not Options:
            given["options"] = options
        try:
            positions = np.asarray(self.function(k=k, **given))
        except SevilaError:
            raise
        except (Exception, SystemExit) as error:  # other people's code may raise anything
            question = f" for question {candidates.question_id!r}" if candidates.question_id else ""
            raise SevilaError(f"selector {self.name} failed{question}: {failure(error)}") from error
        return self._checked(positions, candidates.n_frames, k)

    def options_from(self, values: Mapping[str, Any]) -> Options:
        """Return the options that have these values, else their defaults. Raises RecipeError for a name or value at fault."""
        try:
            return self.options(**values)
        except ValidationError as error:
            names = ", ".join(self.options.model_fields) or "none"
            raise RecipeError(
                f"{'; '.join(map(self._problem, error.errors()))} (options of {self.name}: {names})"
            ) from None

    def _problem(self, error: ErrorDetails) -> str:
        option = ".".join(map(str, error["loc"]))
        if error["type"] == "extra_forbidden":
            return f"{self.name} has no option {option!r}{did_you_mean(option, self.options.model_fields)}"
        return f"{self.name}.{option} is {error['input']!r}: {error['msg']}"

    def _checked(self, positions: NDArray[Any], n_frames: int, k: int) -> Positions:
        step = 0 if self.repeats else 1
        if positions.shape == (0,):
            return np.empty(0, np.int64)
        whole = positions.ndim == 1 and positions.dtype.kind in "iu" and len(positions) <= k
        if not whole or positions[0] < 0 or positions[-1] >= n_frames or (np.diff(positions) < step).any():
            raise SevilaError(
                f"selector {self.name} chose {positions.tolist()} of {n_frames} frames; at most {k} positions were wanted, "
                f"ascending{'' if self.repeats else ' without repetition'}: an error of the selector"
            )
        return positions.astype(np.int64, copy=False)


def selector(*, version: int, source: str, repeats: bool = False) -> Callable[[Callable[..., Positions]], Selector]:
    """Declare a function of this module's form a selector; see the module."""

    def declare(function: Callable[..., Positions]) -> Selector:
        name, parameters = function.__name__, list(inspect.signature(function).parameters)
        options = get_type_hints(function).get("options") if "options" in parameters else Options
        if "k" not in parameters or not {*parameters} <= {"k", "options", *INPUTS}:
            raise SevilaError(
                f"{name} takes {', '.join(parameters) or 'nothing'}; k, options and of {', '.join(INPUTS)} was wanted"
            )
        if not (isinstance(options, type) and issubclass(options, Options)):
            raise SevilaError(f"{name}: the type of options is {options}; a class derived from Options was wanted")
        if "rng" in parameters and not issubclass(options, SeededOptions):
            raise SevilaError(
                f"{name} takes rng; options of a class derived from SeededOptions were wanted, for the seed"
            )
        needs = tuple(each for each in INPUTS if each in parameters)
        return Selector(name, version, source, function, needs, options, repeats)

    return declare


def _read_only(value: Any) -> Any:
    """Return a view of an array that a selector cannot write to."""
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return value


def _finite(name: str, values: ArrayLike) -> Floats:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise SevilaError(f"{name}: no numbers ({error}); {WANTED_SHAPES[name]} was wanted") from error
    if name == "moments" and array.size == 0:
        return array.reshape(0, 2)
    if array.ndim != (2 if name in ("vectors", "moments") else 1):
        raise SevilaError(f"{name} have the shape {array.shape}; {WANTED_SHAPES[name]} was wanted")
    if not np.isfinite(array).all():
        row, *column = np.argwhere(~np.isfinite(array))[0].tolist()
        raise SevilaError(f"{name}: {array[(row, *column)]} at {row}; finite numbers were wanted")
    return array
