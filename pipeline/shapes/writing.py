"""Random training texts for the Shapes backbone's language model: frames in words, and questions about them.

A frame is described by four words, one per visual token of the Q-Former: its thing, colour, shape and place. Words and text are
assembled exactly as the chain assembles visual tokens and text. No video and no question of any split is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from pipeline.models import prompts
from pipeline.models.verbalizer import Verbalizer
from pipeline.shapes.drawing import COLOURS, SHAPES
from pipeline.shapes.tokenizer import EMPTY, LETTERS, PLACES, UNCOLOURED
from pipeline.shapes.world import EVENTS, MOTIONS, N_OPTIONS, REACH, SETS_OFF, UNSEEN, statement

FrameWords = tuple[str, str, str, str]  # thing, colour, shape, place
EMPTY_FRAME: FrameWords = (EMPTY, EMPTY, EMPTY, EMPTY)
CENTRE = 0.16  # largest distance of the place "centre" from the middle of a frame
EASY_SHARE = 0.5  # of the questions: wrong options need not be in the video, so recognising the right one is enough
UNSEEN_SHARE = 0.1  # of the questions: no frame shows the event asked about
EMPTY_SHARE = 0.2  # of the frames of those: empty
TURN = 0.5  # phase of an event, from 0 to 1, at which its thing takes on colour
TYPES = ("colour", "shape", "motion", "after")


@dataclass(frozen=True)
class Sample:
    """Frames in words, a prompt and its target as token ids, and the position of the answer's token in the target."""

    frames: list[FrameWords]
    text: list[int]
    target: list[int]
    answer_at: int


@dataclass(frozen=True)
class _WrittenEvent:
    colour: str
    shape: str
    motion: str
    start: tuple[float, float]

    @property
    def thing(self) -> str:
        return f"{self.colour} {self.shape}"


def described(colour: str, shape: str, x: float, y: float) -> FrameWords:
    """Return the words for a frame; positions are fractions of the frame's side."""
    return f"a {colour} {shape}", colour, shape, PLACES[place(x, y)]


def place(x: float, y: float) -> int:
    """Return the index in PLACES of a position."""
    right, below = x - 0.5, y - 0.5
    if max(abs(right), abs(below)) < CENTRE:
        return 0
    return (2 if right > 0 else 1) if abs(right) > abs(below) else (4 if below > 0 else 3)


class Writer:
    """Draws random samples, deterministically by seed."""

    def __init__(self, verbalizer: Verbalizer, seed: int) -> None:
        self._random = Random(seed)
        self._verbalizer = verbalizer
        self._known: dict[str, list[int]] = {}

    def question(self, n_frames: int, as_text: bool = False) -> Sample:
        """Return a question about `n_frames` frames, with a letter or the option's text as target.

        The frames show the event asked about; in a share of the samples they do not, and the correct answer is `UNSEEN`.
        """
        random = self._random
        events = self._events()
        kind = random.choice(TYPES)
        event_number = random.randrange(EVENTS - 1) if kind == "after" else random.randrange(EVENTS)
        question, right, wrong = self._ask(kind, events, event_number)
        shown = [event_number, event_number + 1] if kind == "after" else [event_number]
        options = self._options(right, wrong)
        if random.random() < UNSEEN_SHARE:
            right, frames = UNSEEN, self._other_frames(events, shown, kind, n_frames)
        else:
            frames = self._frames(events, shown, n_frames)
        text = [
            *self._ids(f"Question: {question}"),
            *(token for index, option in enumerate(options) for token in self._ids(_lettered(index, option))),
            *self._ids(prompts.ANSWER_INSTRUCTION),
            self._verbalizer.end_id,
        ]
        target = self._ids(right if as_text else prompts.answer_target(options.index(right)))
        return Sample(frames, text, [*target, self._verbalizer.end_id], len(target) - 1)

    def judgement(self) -> Sample:
        """Return one frame and a question or statement, with yes or no as target: whether the frame shows its event."""
        random = self._random
        events = self._events()
        kind = random.choice((*TYPES, "statement"))
        event_number = random.randrange(EVENTS - 1) if kind == "after" else random.randrange(EVENTS)
        shown = [event_number, event_number + 1] if kind == "after" else [event_number]
        if kind == "statement":
            event = events[event_number]
            segments = [f"Question: {statement(event.thing, event.motion)}", "Option A: yes. Option B: no."]
            decoys = self._near_misses(event)
        else:
            question, right, wrong = self._ask(kind, events, event_number)
            options = self._options(right, wrong)
            segments = [f"Question: {question}", f"Options: ({options[0]}", *options[1:], ")"]
            decoys = []
        draw = random.random()
        if draw < 0.5:
            phase = random.uniform(TURN, 1) if kind == "shape" else random.random()  # "the red thing" is not grey
            frame, verdict = self._frame(events[random.choice(shown)], phase), "yes"
        elif draw < 0.6:
            frame, verdict = EMPTY_FRAME, "no"
        else:
            others = decoys or [event for number, event in enumerate(events) if number not in shown]
            frame, verdict = (
                self._frame(random.choice(others), random.uniform(TURN, 1) if decoys else random.random()),
                "no",
            )
        segments.append(prompts.LOCALIZE_INSTRUCTIONS[random.choice(list(prompts.LOCALIZE_INSTRUCTIONS))])
        text = [token for segment in segments for token in self._ids(segment)] + [self._verbalizer.end_id]
        return Sample([frame], text, [*self._ids(verdict), self._verbalizer.end_id], 0)

    def _events(self) -> list[_WrittenEvent]:
        random = self._random
        colours, shapes = random.sample(tuple(COLOURS), EVENTS), random.sample(SHAPES, EVENTS)
        motions = random.choices(tuple(MOTIONS), k=EVENTS)
        return [
            _WrittenEvent(colour, shape, motion, (random.uniform(0.45, 0.55), random.uniform(0.45, 0.55)))
            for colour, shape, motion in zip(colours, shapes, motions, strict=True)
        ]

    def _near_misses(self, event: _WrittenEvent) -> list[_WrittenEvent]:
        """Return the event with another colour, and with another shape."""
        colour = self._random.choice([name for name in COLOURS if name != event.colour])
        shape = self._random.choice([name for name in SHAPES if name != event.shape])
        return [
            _WrittenEvent(colour, event.shape, event.motion, event.start),
            _WrittenEvent(event.colour, shape, event.motion, event.start),
        ]

    def _ask(self, kind: str, events: list[_WrittenEvent], event_number: int) -> tuple[str, str, list[str]]:
        """Return a question, its correct answer, and wrong ones, which are true of other events or drawn at random."""
        event = events[event_number]
        others = [other for other in events if other is not event]
        if self._random.random() < EASY_SHARE:
            others = self._others(event)
        if kind == "colour":
            return f"What colour is the {event.shape}?", event.colour, [other.colour for other in others]
        if kind == "shape":
            return f"What shape is the {event.colour} thing?", event.shape, [other.shape for other in others]
        if kind == "motion":
            return f"Where does the {event.thing} go?", event.motion, [name for name in MOTIONS if name != event.motion]
        after = events[event_number + 1]
        wrong = [f"a {other.thing}" for other in others if other.thing != after.thing]
        return f"What comes after the {event.thing}?", f"a {after.thing}", wrong

    def _others(self, event: _WrittenEvent) -> list[_WrittenEvent]:
        """Return random things, not necessarily in the video, whose colours and shapes differ from the event's."""
        random = self._random
        colours = random.sample([colour for colour in COLOURS if colour != event.colour], EVENTS - 1)
        shapes = random.sample([shape for shape in SHAPES if shape != event.shape], EVENTS - 1)
        return [_WrittenEvent(*pair, "nowhere", (0.5, 0.5)) for pair in zip(colours, shapes, strict=True)]

    def _options(self, right: str, wrong: Sequence[str]) -> list[str]:
        return self._shuffled([right, *self._shuffled(wrong)[: N_OPTIONS - 2], UNSEEN])

    def _shuffled(self, values: Sequence[str]) -> list[str]:
        return self._random.sample(values, len(values))

    def _frames(self, events: list[_WrittenEvent], shown: list[int], n_frames: int) -> list[FrameWords]:
        """Return frames in time order; if there are enough, they include every shown event in colour."""
        random = self._random
        times = [(number, random.uniform(TURN, 1)) for number in shown]
        random.shuffle(times)
        times = times[:n_frames]
        empty = 0
        while len(times) + empty < n_frames:
            draw = random.random()
            if draw < 0.4:
                times.append((random.choice(shown), random.random()))
            elif draw < 0.9:
                times.append((random.randrange(EVENTS), random.random()))
            else:
                empty += 1
        frames = [self._frame(events[number], phase) for number, phase in sorted(times)]
        for _ in range(empty):
            frames.insert(random.randint(0, len(frames)), EMPTY_FRAME)
        return frames

    def _other_frames(
        self, events: list[_WrittenEvent], shown: list[int], kind: str, n_frames: int
    ) -> list[FrameWords]:
        """Return frames in time order that do not show the event asked about: other events, grey things, empty frames."""
        random = self._random
        times = []
        for _ in range(n_frames):
            number = random.randrange(EVENTS)
            # With a single frame, any thing but the one named in the question may be the one that came after.
            hidden = number != shown[0] if kind == "after" and n_frames == 1 else number in shown
            times.append((number, random.uniform(0, TURN) if hidden else random.random()))
        frames = [self._frame(events[number], phase) for number, phase in sorted(times)]
        return [EMPTY_FRAME if random.random() < EMPTY_SHARE else frame for frame in frames]

    def _frame(self, event: _WrittenEvent, phase: float) -> FrameWords:
        dx, dy = MOTIONS[event.motion]
        along = SETS_OFF + (REACH - SETS_OFF) * (phase - TURN) / (1 - TURN) if phase >= TURN else 0.0
        colour = event.colour if phase >= TURN else UNCOLOURED
        return described(colour, event.shape, event.start[0] + dx * along, event.start[1] + dy * along)

    def _ids(self, segment: str) -> list[int]:
        if segment not in self._known:
            self._known[segment] = self._verbalizer.tokenize_prefixes([segment])[0]
        return self._known[segment]


def _lettered(index: int, option: str) -> str:
    return f"Option {LETTERS[index]}: {option}"
