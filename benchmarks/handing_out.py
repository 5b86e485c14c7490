"""What a step costs that is handed to a GPU worker: `python -m benchmarks.handing_out`.

A real server and two GPU workers on 127.0.0.1, a forward chain of a tiny model with nothing made yet. Of each step that workers
make: the seconds of its task in the run, those that its work took (loading, computing, writing: the record's phases), and the
rest: asking the server, a worker that takes the run, starting Python, planning, collecting.
"""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.text_table import aligned
from tests.flow_acts import places
from tests.prefect_server import ENDED, PrefectServer
from tests.small_world import SMALL

OF_A_STEP_SECONDS = 600.0  # the length of a step that the share is said of


def steps_of_workers(server: PrefectServer, run: str) -> list[tuple[str, float, float]]:
    """Return name, seconds in the run and seconds of work of each step of a run that workers have made."""
    steps = []
    for step in server.ended_steps(run):
        id = step["name"].removesuffix(")").rpartition("(")[2]
        record: Any = server.store.record(id)
        if id.startswith(("extract_features", "score_frames", "answer_questions")):
            start, end = (datetime.fromisoformat(step[f"{which}_time"]) for which in ("start", "end"))
            steps.append((record.stage, (end - start).total_seconds(), sum(record.phase_seconds.values())))
    return steps


def main() -> None:
    """Print a table."""
    lines = [["step", "in the run, s", "work, s", "beside it, s", "of a step of ten minutes"]]
    with tempfile.TemporaryDirectory() as folder:
        server = PrefectServer(Path(folder))
        with server.up():
            at = places(server.small, server.store.root)
            server.start("sevila/forward", "measured", recipe=SMALL, places=at, execution={"dispatch": "workers"})
            server.until(lambda: server.flow_run("measured")["state"]["type"] in ENDED)
            for stage, seconds, work in steps_of_workers(server, "measured"):
                rest = seconds - work
                figures = (
                    f"{seconds:.1f}",
                    f"{work:.1f}",
                    f"{rest:.1f}",
                    f"{100 * rest / (OF_A_STEP_SECONDS + rest):.1f} %",
                )
                lines.append([stage, *figures])
    print(aligned(lines))


if __name__ == "__main__":
    main()
