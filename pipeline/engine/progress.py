"""Progress of long loops: a bar in a terminal; elsewhere a log line now and then, and whatever a front door shows."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pipeline.engine.waiting import Waiting
from pipeline.text_table import duration

if TYPE_CHECKING:
    from pipeline.engine.bars import FittingBar
    from pipeline.engine.output import Shard

log = logging.getLogger("sevila")
LOG_EVERY_SECONDS = 30.0
TO_PARENT_EVERY_SECONDS = 1.0  # by a process that another one shows the progress of, in a terminal
SHOW_EVERY_SECONDS = 5.0
WORTH_GUESSING_SECONDS = 10.0  # before, the pace says little of how long the rest will take

Item = TypeVar("Item")
# Takes what is being done, how much of it in percent, and that in words. The end, 100 %, is shown even of what was too
# short to be shown before.
Show = Callable[[str, float, str], object]

# Variables of the context: processes started from here do not have them.
_show: ContextVar[Show | None] = ContextVar("show", default=None)
_step: ContextVar[str] = ContextVar("step", default="")


@contextmanager
def at_step(number: int, total: int, setting: str) -> Iterator[None]:
    """Have `step_name` say, in the block, which of how many steps is at work; `total` 0: unknown."""
    which = f"[{number}/{total}] " if total else f"[{number}] "
    before = _step.set(f"{which}{setting}: " if setting else which)
    try:
        yield
    finally:
        _step.reset(before)


def step_name(stage: str) -> str:
    """Return a stage's name as people follow it: `[31/71] refined Localizer, zero-shot: answer_questions`."""
    return f"{_step.get()}{stage}"


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Have `show` called with the progress of every loop in the block, at most every `SHOW_EVERY_SECONDS`; no bars then."""
    before = _show.set(show)
    try:
        yield
    finally:
        _show.reset(before)


def track(items: Iterable[Item], shard: Shard, unit: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items of a shard, showing how many are done."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    done, which = 0, _which(shard)
    # The line above a bar says which step it is: both do not fit in a line.
    name = f"{shard.stage.name}, {which}".rstrip(", ")
    with _course(shard.stage.name, desc=name, unit=unit, total=total) as course:

        def words() -> str:
            return f"{which}{done} of {total or '?'} {unit}s, {done / course.seconds():.2g} a second"

        for item in items:
            course.at((shard.place + done / (total or done + 1)) / shard.of, words)
            yield item
            done += 1
            course.draw(done)
        course.at((shard.place + 1) / shard.of, words)


@contextmanager
def count_bar(description: str, total: int, unit: Literal["B", "video", "frame"]) -> Iterator[Callable[[int], object]]:
    """Yield what shows how many bytes, videos or frames were read: call it with how many more."""
    done = 0
    with _course(description, unit=unit, unit_scale=unit == "B", total=total, delay=1, dynamic_ncols=False) as course:

        def words() -> str:
            return f"{done / 1e9:.1f} of {total / 1e9:.1f} GB" if unit == "B" else f"{done} of {total} {unit}s"

        def add(more: int) -> None:
            nonlocal done
            done += more
            course.draw(done)
            course.at(done / max(total, 1), words)

        yield add


class FrameProgress:
    """How many frames of a shard are done; those that were done before are left out, so that the rest is foreseen rightly."""

    def __init__(self, shard: Shard, total: int, course: _Course) -> None:
        self._course, self._shard = course, shard
        self._all, self._total, self._done = total, total, 0

    def add(self, n_frames: int, n_held: int) -> None:
        """Say that so many more are done, and that so many of all were there before, as far as that is known."""
        self._done, self._total = self._done + n_frames, max(self._all - n_held, self._done + n_frames)
        self._course.draw(self._done, total=self._total)
        self._course.at((self._shard.place + self._done / max(self._total, 1)) / self._shard.of, self._words)

    def end(self) -> None:
        """Say that the shard is done."""
        self._course.at((self._shard.place + 1) / self._shard.of, self._words)

    def _words(self) -> str:
        a_second = self._done / self._course.seconds()
        left = timedelta(seconds=round((self._total - self._done) / a_second)) if a_second else "?"
        return f"{_which(self._shard)}{self._done} of {self._total} frames, {a_second:.2g} a second, {left} left"


@contextmanager
def frame_progress(shard: Shard, total: int) -> Iterator[FrameProgress]:
    """Yield what shows how many frames of a shard are done, and how long the others will take."""
    with _course(shard.stage.name, unit="frame", total=total) as course:
        progress = FrameProgress(shard, total, course)
        yield progress
        progress.end()


@contextmanager
def steps_bar(description: str, total: int, done: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Yield what shows a training's progress: call it after each step with the steps done and the figures of the last one."""
    with _course(description, unit="step", total=total, initial=done) as course:

        def show(step: int, figures: dict[str, float]) -> None:
            course.draw(step, _in_words(figures))
            course.at(step / max(total, 1), lambda: f"step {step} of {total}: {_in_words(figures)}")

        yield show


@contextmanager
def _course(what: str, **of_bar: Any) -> Iterator[_Course]:
    """Yield what a loop says to how far it is."""
    if _is_for_eyes():
        with _bar(**{"desc": what, "dynamic_ncols": True} | of_bar) as bar:
            yield _Course(what, bar)
    else:
        yield _Course(what, None)


def _bar(**options: Any) -> FittingBar:
    from pipeline.engine.bars import FittingBar  # here, as most commands show none

    return FittingBar(leave=False, **options)


def _which(shard: Shard) -> str:
    return f"shard {shard.place + 1} of {shard.of}, " if shard.of > 1 else ""


class _Course:
    """How far a loop is: a bar; or a log line now and then, and more often a call of what shows it."""

    def __init__(self, what: str, bar: FittingBar | None) -> None:
        self._what, self._bar = what, bar
        self._show = _show.get()
        self._waiting = Waiting()
        self._started = self._last_line = self._last_show = time.monotonic()

    def seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-3)

    def draw(self, done: int, words: str = "", total: int | None = None) -> None:
        """Have the bar, if there is one, show so many units as done, and words behind."""
        if self._bar is not None:
            self._bar.total = total or self._bar.total
            self._bar.set_postfix_str(", ".join(filter(None, [self._waiting_words(), words])), refresh=False)
            self._bar.update(done - self._bar.n)

    def _waiting_words(self) -> str:
        return self._waiting.words(self.seconds)

    def at(self, share: float, words: Callable[[], str]) -> None:
        """Tell, where there is no bar, that this share of it, from 0 to 1, is done, if it is time to."""
        if self._bar is not None:
            return
        now = time.monotonic()
        ends_what_was_logged = share >= 1 and self._last_line > self._started
        is_shown_by_parent = _is_child() and sys.stderr.isatty()
        every = min(TO_PARENT_EVERY_SECONDS, LOG_EVERY_SECONDS) if is_shown_by_parent else LOG_EVERY_SECONDS
        if ends_what_was_logged or now - self._last_line > every:
            self._last_line = now
            text = self._text(share, words)
            # A process that others have started shows nothing; its lines arrive where they can be shown.
            extra = {"progress": (self._what, 100 * share, text)}
            log.info("%s: %s", step_name(self._what), text, extra=extra)
        if self._show is not None and (share >= 1 or now - self._last_show > SHOW_EVERY_SECONDS):
            self._last_show = now
            self._show(self._what, 100 * share, self._text(share, words))

    def _text(self, share: float, words: Callable[[], str]) -> str:
        return ", ".join(filter(None, [words(), self._waiting_words(), self._left(share)]))

    def _left(self, share: float) -> str:
        """Return how long it will take at the pace so far, once that says something."""
        seconds = self.seconds()
        if not 0 < share < 1 or seconds < WORTH_GUESSING_SECONDS:
            return ""
        return f"about {duration(seconds / share - seconds)} left"


def _is_for_eyes() -> bool:
    """Whether bars are drawn: by the process that people have started, and not where they asked for quiet."""
    return _show.get() is None and not _is_child() and sys.stderr.isatty() and log.isEnabledFor(logging.INFO)


def _is_child() -> bool:
    return multiprocessing.parent_process() is not None


class LinesBesideBars(logging.Handler):
    """Prints each line above the bars that are drawn; of other processes' progress, which arrives as lines, draws a bar."""

    def __init__(self, style: Callable[[str, int], str]) -> None:
        """Args: `style` makes what is printed of a line and its level."""
        super().__init__()
        self._style = style
        self._others: dict[str, FittingBar] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        try:
            progress = getattr(record, "progress", None)
            if progress is not None and _is_for_eyes():
                self._draw(*progress)
            else:
                print_line(self._style(self.format(record), record.levelno))
        except Exception:
            self.handleError(record)

    def _draw(self, what: str, percent: float, text: str) -> None:
        if what not in self._others:
            self._others[what] = _bar(
                desc=what, total=100, dynamic_ncols=True, bar_format="{desc}: {percentage:3.0f}%{postfix}"
            )
        bar = self._others[what]
        bar.set_postfix_str(text, refresh=False)
        bar.n = percent
        bar.refresh()
        if percent >= 100:
            self._others.pop(what).close()


@contextmanager
def quiet(least: int = logging.WARNING) -> Iterator[None]:
    """Log nothing below this level in the block."""
    level = log.level
    log.setLevel(max(least, level))
    try:
        yield
    finally:
        log.setLevel(level)


def end_bars() -> None:
    """Take all bars off the terminal, so that what is printed next, without them, begins a line."""
    tqdm = sys.modules.get("tqdm")
    for bar in list(tqdm.tqdm._instances) if tqdm is not None else ():
        bar.close()


def print_line(text: str) -> None:
    """Print a line for people, above whatever bars are drawn."""
    tqdm = sys.modules.get("tqdm")  # nobody has drawn one without it
    if tqdm is None:
        print(text, file=sys.stderr, flush=True)
    else:
        tqdm.tqdm.write(text, file=sys.stderr)


def _in_words(figures: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
