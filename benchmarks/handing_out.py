"""The overhead of dispatching a step to a GPU worker: `python -m benchmarks.handing_out`.

A real server and two GPU workers on 127.0.0.1 run a forward chain of a tiny model in an empty store. For each dispatched step:
the seconds of its task in the run, the seconds of work (loading, computing, writing: the record's phases), and the overhead:
requests to the server, scheduling, starting Python, planning, collecting. Writes `handing_out.json` to OUT, by default the
current folder.
"""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.report import show
from tests.concurrent_flows import places
from tests.prefect_server import ENDED, PrefectServer
from tests.small_world import SMALL

STEP_SECONDS = 600.0  # the work of a step for which the share of the overhead is shown


def steps_of_workers(server: PrefectServer, run: str) -> list[tuple[str, float, float]]:
    """Return stage, seconds in the run and seconds of work of each step of a run that workers have done."""
    steps = []
    for step in server.ended_steps(run):
        id = step["name"].removesuffix(")").rpartition("(")[2]
        record: Any = server.store.record(id)
        if id.startswith(("extract_features", "score_frames", "answer_questions")):
            start, end = (datetime.fromisoformat(step[name]) for name in ("start_time", "end_time"))
            steps.append((record.stage, (end - start).total_seconds(), sum(record.phase_seconds.values())))
    return steps


def main() -> None:
    """Print a table."""
    lines = [["step", "in the run, s", "work, s", "overhead, s", "share of a step of ten minutes"]]
    with tempfile.TemporaryDirectory() as folder:
        server = PrefectServer(Path(folder))
        with server.up():
            paths = places(server.small, server.store.root)
            server.start("sevila/forward", "measured", recipe=SMALL, places=paths, execution={"dispatch": "workers"})
            server.until(lambda: server.flow_run("measured")["state"]["type"] in ENDED)
            for stage, seconds, work in steps_of_workers(server, "measured"):
                overhead = seconds - work
                share = f"{100 * overhead / (STEP_SECONDS + overhead):.1f} %"
                lines.append([stage, *(f"{value:.1f}" for value in (seconds, work, overhead)), share])
    show("handing_out", lines)


if __name__ == "__main__":
    main()
