"""Progress of long loops: a bar in a terminal; otherwise periodic log lines, and calls of a front end's `Show` function."""

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
TO_PARENT_EVERY_SECONDS = 1.0  # by a child process whose progress the parent draws in a terminal
SHOW_EVERY_SECONDS = 5.0
MIN_ESTIMATE_SECONDS = 10.0  # no remaining time is estimated before

Item = TypeVar("Item")
# (name of the loop, percent done, description). Always called at the end, with 100 %, even for short loops.
Show = Callable[[str, float, str], object]

# Context variables; child processes do not inherit them.
_show: ContextVar[Show | None] = ContextVar("show", default=None)
_step: ContextVar[str] = ContextVar("step", default="")


@contextmanager
def at_step(number: int, total: int, setting: str) -> Iterator[None]:
    """Make `step_name` include the step's number and setting in the block; `total` 0: unknown."""
    prefix = f"[{number}/{total}] " if total else f"[{number}] "
    token = _step.set(f"{prefix}{setting}: " if setting else prefix)
    try:
        yield
    finally:
        _step.reset(token)


def step_name(stage: str) -> str:
    """Return a stage's name with its step: `[31/71] refined Localizer, zero-shot: answer_questions`."""
    return f"{_step.get()}{stage}"


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Pass the progress of every loop in the block to `show`, at most every `SHOW_EVERY_SECONDS`, and draw no bars."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)


def track(items: Iterable[Item], shard: Shard, unit: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items of a shard, and show how many are done."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    n_done, prefix = 0, _shard_prefix(shard)
    # Without the step's number, which is in the log line above the bar, to fit into one line.
    name = f"{shard.stage.name}, {prefix}".rstrip(", ")
    with _loop_progress(shard.stage.name, desc=name, unit=unit, total=total) as progress:

        def words() -> str:
            return f"{prefix}{n_done} of {total or '?'} {unit}s, {n_done / progress.seconds():.2g} a second"

        for item in items:
            progress.at((shard.place + n_done / (total or n_done + 1)) / shard.of, words)
            yield item
            n_done += 1
            progress.draw(n_done)
        progress.at((shard.place + 1) / shard.of, words)


@contextmanager
def count_bar(description: str, total: int, unit: Literal["B", "video", "frame"]) -> Iterator[Callable[[int], object]]:
    """Yield a function that adds to the number of bytes, videos or frames read, and shows it."""
    n_done = 0
    with _loop_progress(
        description, unit=unit, unit_scale=unit == "B", total=total, delay=1, dynamic_ncols=False
    ) as progress:

        def words() -> str:
            return f"{n_done / 1e9:.1f} of {total / 1e9:.1f} GB" if unit == "B" else f"{n_done} of {total} {unit}s"

        def add(more: int) -> None:
            nonlocal n_done
            n_done += more
            progress.draw(n_done)
            progress.at(n_done / max(total, 1), words)

        yield add


class FrameProgress:
    """Progress over the frames of a shard, without frames that were already stored, which would distort the estimate."""

    def __init__(self, shard: Shard, total: int, progress: _LoopProgress) -> None:
        self._loop_progress, self._shard = progress, shard
        self._all, self._total, self._done = total, total, 0

    def add(self, n_frames: int, n_held: int) -> None:
        """Add `n_frames` done; `n_held` is the number of frames known so far to have been stored before."""
        self._done, self._total = self._done + n_frames, max(self._all - n_held, self._done + n_frames)
        self._loop_progress.draw(self._done, total=self._total)
        self._loop_progress.at((self._shard.place + self._done / max(self._total, 1)) / self._shard.of, self._words)

    def end(self) -> None:
        """Show that the shard is done."""
        self._loop_progress.at((self._shard.place + 1) / self._shard.of, self._words)

    def _words(self) -> str:
        a_second = self._done / self._loop_progress.seconds()
        remaining = timedelta(seconds=round((self._total - self._done) / a_second)) if a_second else "?"
        return f"{_shard_prefix(self._shard)}{self._done} of {self._total} frames, {a_second:.2g} a second, {remaining} left"


@contextmanager
def frame_progress(shard: Shard, total: int) -> Iterator[FrameProgress]:
    """Yield a `FrameProgress`, which shows how many frames of a shard are done, and the remaining time."""
    with _loop_progress(shard.stage.name, unit="frame", total=total) as progress:
        frames = FrameProgress(shard, total, progress)
        yield frames
        frames.end()


@contextmanager
def steps_bar(description: str, total: int, n_done: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Yield a function that shows a training's progress; call it with (steps done, figures of the last step)."""
    with _loop_progress(description, unit="step", total=total, initial=n_done) as progress:

        def show(step: int, figures: dict[str, float]) -> None:
            progress.draw(step, _in_words(figures))
            progress.at(step / max(total, 1), lambda: f"step {step} of {total}: {_in_words(figures)}")

        yield show


@contextmanager
def _loop_progress(title: str, **of_bar: Any) -> Iterator[_LoopProgress]:
    """Yield a `_Course`, to which a loop reports its progress."""
    if _draws_bars():
        with _bar(**{"desc": title, "dynamic_ncols": True} | of_bar) as bar:
            yield _LoopProgress(title, bar)
    else:
        yield _LoopProgress(title, None)


def _bar(**options: Any) -> FittingBar:
    from pipeline.engine.bars import FittingBar  # here, as most commands draw no bar

    return FittingBar(leave=False, **options)


def _shard_prefix(shard: Shard) -> str:
    return f"shard {shard.place + 1} of {shard.of}, " if shard.of > 1 else ""


class _LoopProgress:
    """Progress of a loop, shown as a bar, or as log lines and, more often, calls of `Show`."""

    def __init__(self, title: str, bar: FittingBar | None) -> None:
        self._title, self._bar = title, bar
        self._show = _show.get()
        self._waiting = Waiting()
        self._started = self._last_line = self._last_show = time.monotonic()

    def seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-3)

    def draw(self, n_done: int, words: str = "", total: int | None = None) -> None:
        """Update the bar, if there is one, to `done` units, with `words` behind it."""
        if self._bar is not None:
            self._bar.total = total or self._bar.total
            self._bar.set_postfix_str(", ".join(filter(None, [self._waiting_words(), words])), refresh=False)
            self._bar.update(n_done - self._bar.n)

    def _waiting_words(self) -> str:
        return self._waiting.words(self.seconds)

    def at(self, share: float, words: Callable[[], str]) -> None:
        """Without a bar, log and show that a share from 0 to 1 is done, if an interval has passed or the loop ends."""
        if self._bar is not None:
            return
        now = time.monotonic()
        ends_what_was_logged = share >= 1 and self._last_line > self._started
        is_shown_by_parent = _is_child() and sys.stderr.isatty()
        every = min(TO_PARENT_EVERY_SECONDS, LOG_EVERY_SECONDS) if is_shown_by_parent else LOG_EVERY_SECONDS
        if ends_what_was_logged or now - self._last_line > every:
            self._last_line = now
            text = self._text(share, words)
            # A child process only logs; the parent receives the record, and shows its progress.
            extra = {"progress": (self._title, 100 * share, text)}
            log.info("%s: %s", step_name(self._title), text, extra=extra)
        if self._show is not None and (share >= 1 or now - self._last_show > SHOW_EVERY_SECONDS):
            self._last_show = now
            self._show(self._title, 100 * share, self._text(share, words))

    def _text(self, share: float, words: Callable[[], str]) -> str:
        return ", ".join(filter(None, [words(), self._waiting_words(), self._left(share)]))

    def _left(self, share: float) -> str:
        """Return the estimated remaining time; empty in the first `MIN_ESTIMATE_SECONDS`."""
        seconds = self.seconds()
        if not 0 < share < 1 or seconds < MIN_ESTIMATE_SECONDS:
            return ""
        return f"about {duration(seconds / share - seconds)} left"


def _draws_bars() -> bool:
    """Return whether to draw bars: only in the main process, in a terminal, at log level INFO, and without `Show`."""
    return _show.get() is None and not _is_child() and sys.stderr.isatty() and log.isEnabledFor(logging.INFO)


def _is_child() -> bool:
    return multiprocessing.parent_process() is not None


class LinesBesideBars(logging.Handler):
    """Prints log records above the bars; draws the progress records of child processes as bars."""

    def __init__(self, style: Callable[[str, int], str]) -> None:
        """Args: `style` formats a line, given its text and log level."""
        super().__init__()
        self._style = style
        self._bars: dict[str, FittingBar] = {}  # of child processes, by name of the loop

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        try:
            progress = getattr(record, "progress", None)
            if progress is not None and _draws_bars():
                self._draw(*progress)
            else:
                print_line(self._style(self.format(record), record.levelno))
        except Exception:
            self.handleError(record)

    def _draw(self, title: str, percent: float, text: str) -> None:
        if title not in self._bars:
            self._bars[title] = _bar(
                desc=title, total=100, dynamic_ncols=True, bar_format="{desc}: {percentage:3.0f}%{postfix}"
            )
        bar = self._bars[title]
        bar.set_postfix_str(text, refresh=False)
        bar.n = percent
        bar.refresh()
        if percent >= 100:
            self._bars.pop(title).close()


@contextmanager
def quiet(least: int = logging.WARNING) -> Iterator[None]:
    """Suppress log records below this level in the block."""
    level = log.level
    log.setLevel(max(least, level))
    try:
        yield
    finally:
        log.setLevel(level)


def end_bars() -> None:
    """Remove all bars from the terminal, so that the next output starts on a new line."""
    tqdm = sys.modules.get("tqdm")
    for bar in list(tqdm.tqdm._instances) if tqdm is not None else ():
        bar.close()


def print_line(text: str) -> None:
    """Print a line to stderr, above any bars."""
    tqdm = sys.modules.get("tqdm")  # not imported: there are no bars
    if tqdm is None:
        print(text, file=sys.stderr, flush=True)
    else:
        tqdm.tqdm.write(text, file=sys.stderr)


def _in_words(figures: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
