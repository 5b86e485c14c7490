"""The events in the videos of the Shapes world, and the questions about them, all generated from a seed.

A video is a sequence of short events. In each, a grey thing appears in the middle, then takes on its colour and moves away or
stays. No colour and no shape occurs twice in a video, so that "the ring" is unambiguous. The moment of a question is the coloured
part of its event, which shows the answer. The window of a query starts a little earlier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.shapes.drawing import COLOURS, GREY, NOTHING, SHAPES, Appearance, DrawnObjects

SIZE = 64
EVENTS = 5
GREY_FRAMES = (4, 5)  # of 64, of which the chain samples every second one
COLOURED_FRAMES = 7  # so that 3 or 4 sampled frames of an event show all of it
EARLY_FRAMES = 2  # frames before that, which queries' windows include
N_OPTIONS = 5  # UNSEEN is one of them
UNSEEN = "not to be seen"  # an option of every question, never correct: for frames that do not show the event
CAST = (1.0, 0.8, 0.65)  # tint of all videos; the backbone is trained in white light
SETS_OFF, REACH = 0.12, 0.32  # distance of a moving thing from the middle when it takes on colour, and at the end
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "nowhere": (0, 0)}
STATEMENTS = {"nowhere": "stays.", **{motion: f"moves {motion}." for motion in ("left", "right", "up", "down")}}


@dataclass(frozen=True)
class Pace:
    """Length and frame rate of a video; events take the same number of frames at any pace."""

    frames: int
    frames_per_second: int

    @property
    def seconds(self) -> float:
        """The length of a video."""
        return self.frames / self.frames_per_second


SHORT = Pace(64, 8)
LONG = Pace(600, 1)  # 10 minutes, mostly empty


@dataclass(frozen=True)
class Event:
    """The appearance of one thing: grey in frames `start` to `turn` - 1, coloured in frames `turn` to `stop` - 1."""

    colour: str
    shape: str
    motion: str
    start: int
    turn: int
    stop: int
    frames_per_second: int

    @property
    def thing(self) -> str:
        """Colour and shape, such as "red square"."""
        return f"{self.colour} {self.shape}"

    @property
    def moment(self) -> list[float]:
        """First and last coloured frame in seconds."""
        return [self.turn / self.frames_per_second, (self.stop - 1) / self.frames_per_second]

    @property
    def window(self) -> list[float]:
        """The span that a query's annotation has, in seconds: starts a little before the thing takes on colour."""
        return [(self.turn - EARLY_FRAMES) / self.frames_per_second, (self.stop - 1) / self.frames_per_second]


@dataclass(frozen=True)
class WorldQuestion:
    """One question, or a query for a moment, which has no options."""

    type: str
    question: str
    options: list[str]
    answer: int | None
    moments: list[list[float]]


def events_of_video(rng: np.random.Generator, pace: Pace = SHORT) -> list[Event]:
    """Return the events of one video in time order."""
    greys = rng.choice(GREY_FRAMES, EVENTS)
    spare = pace.frames - greys.sum() - EVENTS * COLOURED_FRAMES
    gaps = rng.multinomial(spare, np.full(EVENTS + 1, 1 / (EVENTS + 1)))
    colours = rng.permutation(list(COLOURS))[:EVENTS]
    shapes = rng.permutation(SHAPES)[:EVENTS]
    motions = rng.choice(list(MOTIONS), EVENTS)
    events, at = [], 0
    for number in range(EVENTS):
        at += int(gaps[number])
        turn = at + int(greys[number])
        stop = turn + COLOURED_FRAMES
        attributes = str(colours[number]), str(shapes[number]), str(motions[number])
        events.append(Event(*attributes, at, turn, stop, pace.frames_per_second))
        at = stop
    return events


def questions_about(events: list[Event], rng: np.random.Generator) -> list[WorldQuestion]:
    """Return six questions: two colours, two shapes, a motion, and what comes after."""
    order = rng.permutation(len(events))
    first, second, third, fourth, moving = (events[number] for number in order)
    before = int(rng.integers(len(events) - 1))
    return [
        *(_ask_colour(event, events, rng) for event in (first, second)),
        *(_ask_shape(event, events, rng) for event in (third, fourth)),
        _ask_motion(moving, rng),
        _ask_after(events[before], events[before + 1], events, rng),
    ]


def queries_about(events: list[Event]) -> list[WorldQuestion]:
    """Return one statement for every event: "A red ring moves left."."""
    return [WorldQuestion("", statement(event.thing, event.motion), [], None, [event.window]) for event in events]


def statement(thing: str, motion: str) -> str:
    """Return a sentence that describes an event."""
    return f"A {thing} {STATEMENTS[motion]}"


def _ask_colour(event: Event, events: list[Event], rng: np.random.Generator) -> WorldQuestion:
    others = [other.colour for other in events if other is not event]
    return _asked("colour", f"What colour is the {event.shape}?", event.colour, others, [event], rng)


def _ask_shape(event: Event, events: list[Event], rng: np.random.Generator) -> WorldQuestion:
    others = [other.shape for other in events if other is not event]
    return _asked("shape", f"What shape is the {event.colour} thing?", event.shape, others, [event], rng)


def _ask_motion(event: Event, rng: np.random.Generator) -> WorldQuestion:
    others = [motion for motion in MOTIONS if motion != event.motion]
    return _asked("motion", f"Where does the {event.thing} go?", event.motion, others, [event], rng)


def _ask_after(event: Event, after: Event, events: list[Event], rng: np.random.Generator) -> WorldQuestion:
    others = [f"a {other.thing}" for other in events if other not in (event, after)]
    return _asked("after", f"What comes after the {event.thing}?", f"a {after.thing}", others, [event, after], rng)


def _asked(
    kind: str, question: str, right: str, others: list[str], shown: list[Event], rng: np.random.Generator
) -> WorldQuestion:
    """Return a question whose wrong options are true of other parts of the video."""
    wrong = [str(option) for option in rng.permutation(others)[: N_OPTIONS - 2]]
    options = [str(option) for option in rng.permutation([right, *wrong, UNSEEN])]
    return WorldQuestion(kind, question, options, options.index(right), [event.moment for event in shown])


def things_of(events: list[Event], rng: np.random.Generator, pace: Pace = SHORT) -> DrawnObjects:
    """Return the thing in each frame of a video."""
    n = pace.frames
    colour, shape = np.zeros(n, dtype=int), np.full(n, NOTHING)
    x, y, radius = np.full(n, 0.5), np.full(n, 0.5), np.full(n, 0.2)
    for event in events:
        frames = np.arange(event.start, event.stop)
        dx, dy = MOTIONS[event.motion]
        along = np.concatenate([np.zeros(event.turn - event.start), np.linspace(SETS_OFF, REACH, COLOURED_FRAMES)])
        start = rng.uniform(0.45, 0.55, 2)
        colour[frames] = np.where(frames < event.turn, GREY, list(COLOURS).index(event.colour))
        shape[frames] = SHAPES.index(event.shape)
        x[frames] = start[0] + dx * along
        y[frames] = start[1] + dy * along
        radius[frames] = rng.uniform(0.2, 0.25)
    return DrawnObjects(colour, shape, x, y, radius)


def clean_look(n: int, rng: np.random.Generator) -> Appearance:
    """Return the look of the single images that the Q-Former is trained on: plain dark backgrounds, white light."""
    return Appearance(
        background=np.repeat(rng.uniform(0.05, 0.25, (n, 1)), 3, axis=1),
        slope=np.zeros((n, 2)),
        tint=np.ones((n, 3)),
        noise=np.full(n, 0.01),
        spots=np.zeros(n),
    )


def video_look(n: int, rng: np.random.Generator) -> Appearance:
    """Return the look of one video's n frames: tinted, uneven, noisy; unlike the backbone's images."""
    background = rng.uniform(0.1, 0.35, 3) + rng.uniform(0, 0.1)
    tint = np.array(CAST) * rng.uniform(0.9, 1.0, 3)
    return Appearance(
        background=np.repeat(background[None], n, axis=0),
        slope=np.repeat(rng.uniform(-0.2, 0.2, (1, 2)), n, axis=0),
        tint=np.repeat(tint[None], n, axis=0),
        noise=np.full(n, rng.uniform(0.03, 0.06)),
        spots=np.full(n, rng.uniform(0.03, 0.06)),
    )
