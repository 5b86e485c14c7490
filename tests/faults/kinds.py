"""Every kind of fault: its trial function, its number of trials and its recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults import bad_videos, disks, flips, kills, races, swaps, trouble
from tests.faults.world import Trial

NAMED = ("--name", "kept")
PLAIN: tuple[str, ...] = ()
TRAINED_IN_TWO = ("--set", "chain.selectors=['uniform']", "--processes", "2")
OTHER_K = ("--set", "select_keyframes.k=3")
# A decoder timeout shorter than a stop of the processes.
IMPATIENT = ("--set", "sample_frames.decoder_timeout_seconds=3.0")
FORWARD = ("--set", "chain.kind=forward")  # frames are scored once
OTHER_DATA = (
    *("--annotations", "OTHER/questions.jsonl", "--videos", "OTHER/videos"),
    *("--weights", "tiny-blip2=OTHER/tiny-blip2"),
)
OTHER_QUESTIONS = ("--annotations", "plain=WORLD/other.jsonl")


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        trial: tries faults until the requested number is reached.
        description: text for the report.
        of: command-line option with the number of faults, multiplied by `share`.
        a_trial: maximum number of faults per trial.
        options: command-line options of the recipes, one tuple per recipe.
    """

    name: str
    title: str
    trial: Callable[[Trial], None]
    description: str
    of: str
    share: float = 1.0
    a_trial: int = 4
    options: tuple[tuple[str, ...], ...] = (PLAIN,)

    def count(self, requested: dict[str, int]) -> int:
        """Return how many faults to try."""
        return max(1, round(self.share * requested[self.of])) if requested[self.of] else 0


KINDS = (
    Kind(
        "clock",
        "kill -9 at a random moment",
        kills.by_the_clock,
        "A run of the full chain is killed at a moment drawn over its measured length, or over the length of one of its "
        "artifacts drawn among those not yet made; its resumes are killed likewise, up to four kills in a row. Then the same "
        "command runs to its end.",
        "kills",
    ),
    Kind(
        "operation",
        "kill -9 before a file operation",
        kills.by_operation,
        "The process kills itself before its n-th replace, fsync, rename, mkdir or unlink, n drawn over the number of them in "
        "a whole run, and its resumes in their first third, up to four in a row. Then the same command runs to its end.",
        "kills",
        0.4,
    ),
    Kind(
        "decoders",
        "kill -9 of a decoder process",
        kills.of_decoders,
        "One of the processes that decode videos is killed while the run goes on. No video may be lost to it.",
        "kills",
        0.1,
    ),
    Kind(
        "trainers",
        "kill -9 of a training process",
        kills.of_trainers,
        "One of the two processes of a training is killed while they start or train. The run says so and ends with status 1; "
        "the same command is attacked again, and goes on to its end.",
        "kills",
        0.06,
        2,
        (TRAINED_IN_TWO,),
    ),
    Kind(
        "flip",
        "a flipped bit in a finished store",
        flips.finished_store,
        "One bit of one file, its type drawn first, is flipped. `cache verify --all` must name the file; every reader of the "
        "store must give what it gave before or refuse; `--drop` and the same run must bring back the old bytes and rebuild "
        "nothing else. "
        "(Excepted: the name of a run, which only the run can give again; digests and recent runs, which are reported and "
        "forgotten.)",
        "flips",
        options=(NAMED,),
    ),
    Kind(
        "unfinished",
        "a flipped bit in work in progress",
        flips.work_in_progress,
        "A run is killed, one bit of a file that it left in the partial folders or in the pool is flipped, and the same command "
        "runs again. If it cannot, or ends with other bytes, verify must say so, and after `--drop` the same command must repair "
        "it.",
        "flips",
        0.2,
    ),
    Kind(
        "full",
        "full disk",
        disks.full,
        "The store lies on a tmpfs or an ext4 of its own with room for a drawn share of a whole run, in bytes or in inodes. The "
        "run must end with status 1 and a line that says so; after room is made the same command runs to its end.",
        "disks",
        1.0,
        2,
    ),
    Kind(
        "denied",
        "store read-only, forbidden or unmounted",
        disks.denied,
        "At a random moment of a run its file system is remounted read-only, its folders are given to another user (the run "
        "is not root's), or it is unmounted lazily. The run must end with status 1 and a line that says so; after it is "
        "undone the same command runs to its end.",
        "disks",
        1.0,
        2,
    ),
    Kind(
        "race",
        "processes at once, one recipe",
        races.at_once,
        "Two or four processes run the same command at once; in about half of the races one of them is killed meanwhile. All "
        "others must end with status 0.",
        "races",
        0.5,
        1,
    ),
    Kind(
        "others",
        "processes at once, several recipes",
        races.at_once,
        "As above, with three recipes over the same videos: another number of keyframes, other questions. The store must hold "
        "what lone runs of each would have made, and frames and features of a video once.",
        "races",
        0.5,
        1,
        (PLAIN, OTHER_K, OTHER_QUESTIONS),
    ),
    Kind(
        "reading",
        "trouble while reading videos",
        trouble.while_reading,
        "While videos are decoded, for 0.1 to 4 s: their folder is renamed, they are unlinked, exchanged for others or given "
        "other modes, the run with its decoders or the decoders alone are stopped (their timeout is 3 s), or decoders are "
        "killed three times in a row. The run must end well or with status 1 and a clear line; the same command must then give "
        "what an undisturbed run gives: no video may be lost to it.",
        "troubles",
        options=(IMPATIENT,),
    ),
    Kind(
        "sources",
        "sources exchanged beside a run",
        trouble.sources_exchanged,
        "At a random moment of a run some of annotations, weights and videos are replaced by others under the same names; the "
        "rest is replaced after it, and the same command runs again. Every artifact that a run over one of the two worlds would "
        "make must have exactly its bytes.",
        "troubles",
        options=(PLAIN, OTHER_DATA),
    ),
    Kind(
        "again",
        "--again beside a run",
        swaps.again_beside,
        "At a random moment of a run `sevila stage score_frames --again` starts beside it and stores other logits; one of both "
        "may be killed. Then the same command runs to its end. All that the store holds must follow from one content.",
        "troubles",
        options=(FORWARD,),
    ),
    Kind(
        "moved",
        "moved pool files",
        swaps.moved_pool_files,
        "In a finished store two folders or two arrays of the pool change places, or one is copied over another, its note "
        "included. `cache verify --all` must name one, every reader must give what it gave before or refuse, and "
        "`--drop` and the same command must bring back the old bytes.",
        "troubles",
        options=(NAMED,),
    ),
    Kind(
        "environment",
        "a hostile environment",
        trouble.in_hostile_environment,
        "The run has variables that libraries read and that would change what is trained: gradient accumulation, mixed "
        "precision, DeepSpeed, FSDP, compilation, reduced matrix precision. The content must be what it is without them.",
        "troubles",
        0.5,
        2,
    ),
    Kind(
        "videos",
        "bad and odd videos",
        bad_videos.in_one_batch,
        "All kinds in one batch through sample_frames: empty, garbage, cut, damaged, hanging, missing; MPEG-TS, AV1, VP9, edit "
        "lists, variable rates, rotation, folders of images with gaps. Each must be a row with its reason, or hold exactly "
        "the frames that were asked for: every frame shows its own number.",
        "videos",
        1.0,
        1000,
    ),
)
