"""Small videos with questions of known moments, in three splits, and a recipe for the full chain over them.

Two videos are broken: evaluation counts their questions as wrong, training skips them.
"""

import json
from pathlib import Path

from tests.tiny_blip2 import write_tiny_blip2
from tests.videos import make_video

SPLITS = {"train": 4, "test": 3, "moments": 2}  # number of videos
BROKEN = ("train3.mp4", "test2.mp4")  # empty files
COLOURS = ("red", "green", "blue", "yellow")
WORDS = ("thing", "ball", "ring", "cup", *COLOURS)
RECIPE = """
[chain]
kind = "full"
pretraining_dataset = "plain"
pretraining_split = "moments"

[list_questions]
split = "test"

[sample_frames]
frames = 6
size = 28

[import_backbone]
weights = "tiny-blip2"

[select_keyframes]
k = 2

[pretrain_localizer]
learning_rate = 1e-3
warmup_steps = 1
epochs = 2
batch_size = 2

[refine_localizer]
learning_rate = 1e-3
warmup_steps = 1
epochs = 2
batch_size = 2

[finetune_answerer]
learning_rate = 1e-3
warmup_steps = 1
epochs = 2
batch_size = 2

[train_selector]
learning_rate = 1e-3
warmup_steps = 1
epochs = 2
batch_size = 2
"""


def write_world(folder: Path) -> None:
    """Write videos/, questions.jsonl, tiny-blip2/ and full.toml."""
    (folder / "videos").mkdir(parents=True)
    rows = []
    for split, n_videos in SPLITS.items():
        for number in range(n_videos):
            name = f"{split}{number}.mp4"
            if name in BROKEN:
                (folder / "videos" / name).touch()
            else:
                make_video(folder / "videos" / name, n_frames=24, fps=6)  # 4 s
            for answer_index, colour in enumerate(COLOURS[:2]):
                start = 1.0 * answer_index + 0.5 * number
                row = {"video": name, "split": split, "question": f"What is the {colour} thing?", "type": "thing"}
                options = ["a ball", "a ring", f"a {COLOURS[number]} cup"]
                rows.append(row | {"options": options, "answer": answer_index, "moments": [[start, start + 1.5]]})
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_tiny_blip2(folder / "tiny-blip2", seed=0, words=WORDS)
    (folder / "full.toml").write_text(RECIPE)


def places(folder: Path, store: Path) -> list[str]:
    """Return the options with the paths of this world and of the store."""
    options = ["--annotations", f"{folder / 'questions.jsonl'}", "--videos", f"{folder / 'videos'}"]
    return [*options, "--weights", f"tiny-blip2={folder / 'tiny-blip2'}", "--store", f"{store}", "--device", "cpu"]
