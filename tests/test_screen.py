"""Progress bars and log lines on a real terminal, during a run and at its end."""

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STEP = "refined Localizer, zero-shot, leave one option out: answer_questions"
BAR_END = r"(/s\]|[\d?]\]|\d%|GPU waits \d+ %\]?|(loss|norm|per second) [\d.e+]+\]?)$"
WORDS = "wörter that are rather long for what they say, and a path /of/a/long/folder/walk.mp4 " * 3

SHOW_ALL = f"""
import logging, multiprocessing, sys, threading, warnings
import torch
from cli.terminal import RED, print_last, set_up_log, set_up_output
from pipeline.engine import progress, input_wait
from pipeline.engine.output import Shard
from stages.answer_questions import answer_questions

set_up_output(is_program=True)
set_up_log(quiet=False, verbose=False)
torch.cuda.is_initialized = lambda: True
log = logging.getLogger("sevila")

def each(items):
    for number, item in enumerate(input_wait.model_input(progress.track(items, shard, "question"))):
        log.info("[31/71] %s: line %d", {STEP!r}, number) if number % 10 == 0 else None
        yield item

shard = Shard(__import__("pathlib").Path("."), answer_questions, 7, [], {{}}, 10, 122)
writer = threading.Thread(target=lambda: [log.warning("beside it %d: {WORDS}", n) for n in range(5)])
writer.start()
for _ in each(range(100)):
    pass
writer.join()
with progress.steps_bar("finetune_answerer", 20, 0) as step:
    for number in range(1, 21):
        list(input_wait.model_input([1]))
        step(number, {{"loss": 1 / number, "frames_per_second": 1234.5678, "gradient_norm": number * 1e4}})
        warnings.warn("of a library %d" % number) if number == 3 else None
with progress.frame_progress(shard, 3000) as frames, progress.count_bar("verify", 10**10, "B") as read:
    list(input_wait.model_input([1]))
    frames.add(1000, 5)
    read(10**9)
for percent in (10.0, 20.0):
    fields = {{"progress": ("refine_localizer", percent, "step 1 of 20000: loss 0.1234, {WORDS}")}}
    log.info("a hidden line", extra=fields)
try:
    for _ in progress.track([1, 2], shard, "question"):
        raise ValueError
except ValueError as error:
    print_last("error: {WORDS}", RED)
"""


def in_terminal(script: str, columns: int) -> str:
    """Return the output of a script on a terminal with this number of columns."""
    terminal, tty = pty.openpty()
    ioctl(tty, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    environment |= {"TERM": "xterm", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script], stdin=tty, stdout=tty, stderr=tty, env=environment)
    os.close(tty)
    written = b""
    while True:
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # on Linux: the process has closed the terminal
            break
        if not piece:
            break
        written += piece
    os.close(terminal)
    assert process.wait() == 0, written.decode()
    return written.decode()


def screen_of(written: str, columns: int) -> tuple[list[str], list[str]]:
    """Return the final lines of a terminal, and each line that was wrapped because it did not fit."""
    lines, row, column, broken = [[" "] * columns], 0, 0, []
    for sign in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|.", written, re.DOTALL):
        if sign == "\r":
            column = 0
        elif sign == "\n":
            row += 1
        elif sign == "\x1b[A":
            row -= 1
        elif not sign.startswith("\x1b"):
            if column == columns:
                broken.append("".join(lines[row]))
                row, column = row + 1, 0
            lines += [[" "] * columns for _ in range(row + 1 - len(lines))]
            lines[row][column] = sign
            column += 1
        lines += [[" "] * columns for _ in range(row + 1 - len(lines))]
    return ["".join(line).rstrip() for line in lines], broken


@pytest.mark.parametrize("columns", [80, 40])
def test_log_lines_and_bars_do_not_overlap_in_a_narrow_terminal(columns: int) -> None:
    written = in_terminal(SHOW_ALL, columns)
    lines, broken = screen_of(written, columns)
    assert not broken
    text = " ".join(" ".join(lines).split())
    for number in range(10):
        assert f"[31/71] {STEP}: line {10 * number}" in text
    for number in range(5):
        assert " ".join(f"beside it {number}: {WORDS}".split()) in text
    assert "of a library 3" in text and text.endswith(" ".join(f"error: {WORDS}".split()))
    assert "%" not in text and "a hidden line" not in text  # no part of a bar is left
    drawn = [part for part in re.split(r"[\r\n]|\x1b\[A", written) if re.search(r"\d%", part)]
    names = {re.split("[:,]", part)[0] for part in drawn}
    assert names == {"answer_questions", "finetune_answerer", "refine_localizer"}
    assert not [part for part in drawn if not re.search(BAR_END, part.rstrip())]
    assert columns < 80 or any("GPU waits " in part for part in drawn)
