"""The interface of a selector: a function and a version; its inputs and options are read from the signature.

    @selector(version=1, source="BOLT, CVPR 2025")
    def bolt(scores: Floats, k: int, options: BoltOptions) -> Positions: ...

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

# The inputs that a selector may take besides `k` and `options`, by parameter name.
INPUTS = ("n_frames", "scores", "vectors", "seconds", "moments", "rng")
DESCRIPTIONS = {"vectors": "a vector of each frame", "seconds": "the frames' seconds", "moments": "the true moments"}
INPUT_SHAPES = {"scores": "[T]", "vectors": "[T, D]", "seconds": "[T]", "moments": "[G, 2]"}


class Options(BaseModel):
    """Base class of a selector's options, all with defaults: immutable, no unknown names, no type coercion, no nan."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class SeededOptions(Options):
    """Options of a selector with an `rng`, which is seeded by `seed` and the question's id."""

    seed: int = Field(0, ge=0, description="seed of the draw; each question has its own draw")


@dataclass(frozen=True)
class Candidates:
    """The candidate frames of one question; unknown inputs are None.

    Attributes:
        n_frames: T.
        scores: [T], higher is better.
        vectors: [T, D], one per frame; compared by cosine.
        seconds: [T], times of the frames in the video.
        moments: [G, 2], the true moments in seconds.
        question_id: seeds the `rng` of a random selector together with its option `seed`.
    """

    n_frames: int
    scores: Floats | None = None
    vectors: Floats | None = None
    seconds: Floats | None = None
    moments: Floats | None = None
    question_id: str = ""

    @classmethod
    def of(cls, n_frames: int | None = None, question_id: str = "", **arrays: ArrayLike | None) -> Candidates:
        """Return candidates from `scores`, `vectors`, `seconds` and `moments`, if known; T follows from the first three.

        Raises:
            SevilaError: another shape, numbers of frames that differ, or a value that is nan or infinite.
        """
        known = {name: _finite(name, values) for name, values in arrays.items() if values is not None}
        counts = {name: len(array) for name, array in known.items() if name != "moments"}
        counts |= {} if n_frames is None else {"n_frames": whole_number("n_frames", n_frames, at_least=0)}
        if len(set(counts.values())) != 1:
            numbers = ", ".join(f"{count} by {name}" for name, count in counts.items()) or "no number"
            raise SevilaError(f"candidate frames: {numbers}; expected one number of frames")
        return cls(next(iter(counts.values())), **known, question_id=question_id)


@dataclass(frozen=True)
class Selector:
    """A selector as declared by `@selector`.

    Attributes:
        name: of the function and its file.
        version: to be raised when the same input gives other frames.
        source: the publication, or a statement that there is none.
        needs: its inputs, of `INPUTS`.
        options: the class of its options.
        repeats: whether it may choose a frame more than once.
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
            SevilaError: k below 1, an input that is unknown, options of another selector, or a failure of the function.
        """
        options = self.options() if options is None else options
        k = whole_number("k", k, at_least=1)
        if type(options) is not self.options:
            raise SevilaError(f"{self.name}: options are {type(options).__name__}; expected {self.options.__name__}")
        inputs = {name: _read_only(getattr(candidates, name)) for name in self.needs if name != "rng"}
        for name, value in inputs.items():
            if value is None:
                raise SevilaError(f"{self.name}: needs {DESCRIPTIONS.get(name, name)}, which is not known here")
        if "rng" in self.needs and isinstance(options, SeededOptions):
            # Seeded per question, so that a question's frames do not depend on the other questions or their order.
            inputs["rng"] = np.random.default_rng([options.seed, *candidates.question_id.encode()])
        if self.options is not Options:
            inputs["options"] = options
        try:
            positions = np.asarray(self.function(k=k, **inputs))
        except SevilaError:
            raise
        except (Exception, SystemExit) as error:  # third-party code may raise anything
            question = f" for question {candidates.question_id!r}" if candidates.question_id else ""
            raise SevilaError(f"selector {self.name} failed{question}: {failure(error)}") from error
        return self._checked(positions, candidates.n_frames, k)

    def options_from(self, values: Mapping[str, Any]) -> Options:
        """Return the options with these values, others at their defaults. Raises RecipeError for a wrong name or value."""
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
        min_step = 0 if self.repeats else 1
        if positions.shape == (0,):
            return np.empty(0, np.int64)
        is_valid = positions.ndim == 1 and positions.dtype.kind in "iu" and len(positions) <= k
        if not is_valid or positions[0] < 0 or positions[-1] >= n_frames or (np.diff(positions) < min_step).any():
            raise SevilaError(
                f"selector {self.name} chose {positions.tolist()} of {n_frames} frames; expected at most {k} positions, "
                f"ascending{'' if self.repeats else ' without repetition'}: an error in the selector"
            )
        return positions.astype(np.int64, copy=False)


def selector(*, version: int, source: str, repeats: bool = False) -> Callable[[Callable[..., Positions]], Selector]:
    """Declare a function as a selector; see the module. Raises SevilaError for another signature."""

    def declare(function: Callable[..., Positions]) -> Selector:
        name, parameters = function.__name__, list(inspect.signature(function).parameters)
        options = get_type_hints(function).get("options") if "options" in parameters else Options
        if "k" not in parameters or not {*parameters} <= {"k", "options", *INPUTS}:
            raise SevilaError(
                f"{name} takes {', '.join(parameters) or 'nothing'}; expected k, options and any of {', '.join(INPUTS)}"
            )
        if not (isinstance(options, type) and issubclass(options, Options)):
            raise SevilaError(f"{name}: the type of options is {options}; expected a class derived from Options")
        if "rng" in parameters and not issubclass(options, SeededOptions):
            raise SevilaError(f"{name} takes rng; expected options of a class derived from SeededOptions, for the seed")
        needs = tuple(input for input in INPUTS if input in parameters)
        return Selector(name, version, source, function, needs, options, repeats)

    return declare


def _read_only(value: Any) -> Any:
    """Return a read-only view of an array, any other value unchanged."""
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return value


def _finite(name: str, values: ArrayLike) -> Floats:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise SevilaError(f"{name}: no numbers ({error}); expected {INPUT_SHAPES[name]}") from error
    if name == "moments" and array.size == 0:
        return array.reshape(0, 2)
    if array.ndim != (2 if name in ("vectors", "moments") else 1):
        raise SevilaError(f"{name} have the shape {array.shape}; expected {INPUT_SHAPES[name]}")
    if not np.isfinite(array).all():
        row, *column = np.argwhere(~np.isfinite(array))[0].tolist()
        raise SevilaError(f"{name}: {array[(row, *column)]} at {row}; expected finite numbers")
    return array
