"""What happens in the videos of the Shapes world, and what is asked about it; everything follows from a seed.

A video is a row of short events with nothing in between: in each one thing of a colour and a shape moves, or stays. No colour
and no shape occurs twice in a video, so that "the ring" is always one thing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.shapes.drawing import COLOURS, NOTHING, SHAPES, Look, Things

FRAMES, FRAMES_PER_SECOND, SIZE = 64, 8, 64
EVENTS = 6
EVENT_FRAMES = (7, 8, 9)  # of 64, of which the chain samples every second one: an event fills about 4 sampled frames
GAP_FRAMES = 1  # at least so many frames of nothing around every event
N_OPTIONS = 6
CAST = (1.0, 0.75, 0.55)  # the light in which all videos are taken; the backbone's images are taken in white light
REACH = 0.32  # things move from the middle this far, so that only their later frames tell where they go
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "nowhere": (0, 0)}
STATEMENTS = {"nowhere": "stays.", **{motion: f"moves {motion}." for motion in ("left", "right", "up", "down")}}


@dataclass(frozen=True)
class Event:
    """One thing's appearance: frames `start` to `stop` - 1."""

    colour: str
    shape: str
    motion: str
    start: int
    stop: int

    @property
    def thing(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def moment(self) -> list[float]:
        """First and last frame in seconds."""
        return [self.start / FRAMES_PER_SECOND, (self.stop - 1) / FRAMES_PER_SECOND]


@dataclass(frozen=True)
class Asked:
    """One question, or a query for a moment, which has no options."""

    type: str
    question: str
    options: list[str]
    answer: int | None
    moments: list[list[float]]


def events_of_video(rng: np.random.Generator) -> list[Event]:
    """Return the events of one video in time order."""
    lengths = rng.choice(EVENT_FRAMES, EVENTS)
    spare = FRAMES - lengths.sum() - GAP_FRAMES * (EVENTS + 1)
    gaps = GAP_FRAMES + rng.multinomial(spare, np.full(EVENTS + 1, 1 / (EVENTS + 1)))
    colours = rng.permutation(list(COLOURS))[:EVENTS]
    shapes = rng.permutation(SHAPES)[:EVENTS]
    motions = rng.choice(list(MOTIONS), EVENTS)
    events, at = [], 0
    for number in range(EVENTS):
        at += int(gaps[number])
        stop = at + int(lengths[number])
        events.append(Event(str(colours[number]), str(shapes[number]), str(motions[number]), at, stop))
        at = stop
    return events


def questions_about(events: list[Event], rng: np.random.Generator) -> list[Asked]:
    """Return six questions: two colours, two shapes, a motion, and what comes after."""
    order = rng.permutation(len(events))[:5]
    first, second, third, fourth, moving = (events[number] for number in order)
    before = int(rng.integers(len(events) - 1))
    return [
        *(_ask_colour(event, events, rng) for event in (first, second)),
        *(_ask_shape(event, events, rng) for event in (third, fourth)),
        _ask_motion(moving, rng),
        _ask_after(events[before], events[before + 1], events, rng),
    ]


def queries_about(events: list[Event]) -> list[Asked]:
    """Return one statement for every event: "A red ring moves left."."""
    return [Asked("", statement(event.thing, event.motion), [], None, [event.moment]) for event in events]


def statement(thing: str, motion: str) -> str:
    """Return what happens in an event, as a sentence."""
    return f"A {thing} {STATEMENTS[motion]}"


def _ask_colour(event: Event, events: list[Event], rng: np.random.Generator) -> Asked:
    others = [other.colour for other in events if other is not event]
    return _asked("colour", f"What colour is the {event.shape}?", event.colour, others, [event], rng)


def _ask_shape(event: Event, events: list[Event], rng: np.random.Generator) -> Asked:
    others = [other.shape for other in events if other is not event]
    return _asked("shape", f"What shape is the {event.colour} thing?", event.shape, others, [event], rng)


def _ask_motion(event: Event, rng: np.random.Generator) -> Asked:
    others = [motion for motion in MOTIONS if motion != event.motion]
    return _asked("motion", f"Where does the {event.thing} go?", event.motion, others, [event], rng)


def _ask_after(event: Event, after: Event, events: list[Event], rng: np.random.Generator) -> Asked:
    others = [f"a {other.thing}" for other in events if other not in (event, after)]
    return _asked("after", f"What comes after the {event.thing}?", f"a {after.thing}", others, [event, after], rng)


def _asked(
    kind: str, question: str, right: str, others: list[str], shown: list[Event], rng: np.random.Generator
) -> Asked:
    """Return a question whose wrong options are true of other parts of the video: who looks at those is misled."""
    wrong = [str(option) for option in rng.permutation(others)[: N_OPTIONS - 1]]
    options = [str(option) for option in rng.permutation([right, *wrong])]
    return Asked(kind, question, options, options.index(right), [event.moment for event in shown])


def things_of(events: list[Event], rng: np.random.Generator) -> Things:
    """Return what each frame of a video shows."""
    colour, shape = np.zeros(FRAMES, dtype=int), np.full(FRAMES, NOTHING)
    x, y, radius = np.full(FRAMES, 0.5), np.full(FRAMES, 0.5), np.full(FRAMES, 0.2)
    for event in events:
        frames = np.arange(event.start, event.stop)
        dx, dy = MOTIONS[event.motion]
        along = np.linspace(0, REACH, len(frames))
        start = rng.uniform(0.45, 0.55, 2)
        colour[frames] = list(COLOURS).index(event.colour)
        shape[frames] = SHAPES.index(event.shape)
        x[frames] = start[0] + dx * along
        y[frames] = start[1] + dy * along
        radius[frames] = rng.uniform(0.2, 0.25)
    return Things(colour, shape, x, y, radius)


def clean_look(n: int, rng: np.random.Generator) -> Look:
    """Return the look of the single images that the backbone is trained on: plain dark backgrounds."""
    return Look(
        background=np.repeat(rng.uniform(0.05, 0.25, (n, 1)), 3, axis=1),
        slope=np.zeros((n, 2)),
        tint=np.ones((n, 3)),
        noise=np.full(n, 0.01),
        spots=np.zeros(n),
    )


def video_look(n: int, rng: np.random.Generator) -> Look:
    """Return the look of one video's n frames: tinted, uneven, noisy; unlike the backbone's images."""
    background = rng.uniform(0.1, 0.35, 3) + rng.uniform(0, 0.1)
    tint = np.array(CAST) * rng.uniform(0.9, 1.0, 3)
    return Look(
        background=np.repeat(background[None], n, axis=0),
        slope=np.repeat(rng.uniform(-0.2, 0.2, (1, 2)), n, axis=0),
        tint=np.repeat(tint[None], n, axis=0),
        noise=np.full(n, rng.uniform(0.03, 0.06)),
        spots=np.full(n, rng.uniform(0.03, 0.06)),
    )
