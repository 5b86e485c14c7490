"""Inputs that are rebuilt while, or after, something is made from them: what was made from former content is never served."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache.errors import InputChangedError
from cache.store import Store
from cache.tables import Schema
from pipeline.engine.build import build, build_piece, pieces, rebuild
from pipeline.engine.output import Output, Shard, ShardedOutput
from pipeline.engine.snapshots import Snapshots
from pipeline.engine.stage import Artifact, Config, Plan, RunContext, stage


class Value(Artifact):
    kind = "value"
    tables = {"value": Schema(1, value="int32")}

    def value(self) -> int:
        return int(sum(row["value"] for row in self.rows("value")))


class Nothing(Config):
    pass


def now(name: str) -> str:
    """What the world outside says to a process at this moment."""
    path = Path(os.environ["TOY_WORLD"]) / name
    return path.read_text() if path.exists() else ""


def say(name: str, text: str) -> None:
    (Path(os.environ["TOY_WORLD"]) / name).write_text(text)


@stage(version=1, output=Value)
def toy_source(cfg: Nothing, run: RunContext, *, out: Output) -> None:
    """What the world says, which another machine or hour may give otherwise."""
    out.write_rows("value", [{"value": int(now("source"))}])


@stage(version=1, output=Value, plan=lambda cfg, run, source: Plan([[0], [1]]))
def toy_double(cfg: Nothing, run: RunContext, source: Value, *, out: ShardedOutput) -> None:
    """Twice that, in two shards."""
    value = source.value()

    def work(shard: Shard) -> None:
        say(f"at double {shard.number}", "")
        while now("hold") == f"double {shard.number}":
            time.sleep(0.01)
        shard.write_rows("value", [{"value": value}])

    out.each_shard(work)


@stage(version=1, output=Value)
def toy_next(cfg: Nothing, run: RunContext, double: Value, *, out: Output) -> None:
    """One more."""
    value = double.value()
    say("at next", "")
    while now("hold") == "next":
        time.sleep(0.01)
    out.write_rows("value", [{"value": value + 1}])


CHAIN = (toy_source, toy_double, toy_next)


def chain(run: RunContext, n_stages: int = 3) -> Any:
    made: list[Artifact] = []
    for one in CHAIN[:n_stages]:
        made.append(build(one, Nothing(), run, made[-1:]))
    return made[-1]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContext:
    monkeypatch.setenv("TOY_WORLD", str(tmp_path))
    say("source", "1")
    return RunContext(Store(tmp_path / "store"), device="cpu")


def again(run: RunContext, value: int) -> None:
    say("source", str(value))
    rebuild(toy_source, Nothing(), run, [], build)


PROCESS = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from cache.store import Store
from pipeline.engine.stage import RunContext
from test_read_inputs import *
run = RunContext(Store(Path({store!r})), device="cpu")
{code}
"""


def start(run: RunContext, code: str) -> subprocess.Popen[bytes]:
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    return subprocess.Popen([sys.executable, "-c", PROCESS.format(paths=paths, store=str(run.store.root), code=code)])


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_content_that_changed_at_the_top_is_followed_down_to_the_end(run: RunContext) -> None:
    assert chain(run).value() == 3
    again(run, 5)
    end = str(toy_next.artifact_id(Nothing(), [chain(run, 2)]))
    assert run.store.why_stale(end) and chain(run).value() == 11 and not run.store.why_stale(end)


def test_again_that_gives_the_same_content_leaves_everything_below_as_it_is(run: RunContext) -> None:
    before = chain(run).record
    again(run, 1)
    assert chain(run).record == before


def test_what_is_below_a_remake_that_was_killed_is_made_anew_from_what_the_next_run_makes(run: RunContext) -> None:
    assert chain(run).value() == 3
    say("source", "5")
    code = "from cache.remaking import set_aside\nwith set_aside(run.store, toy_source.artifact_id(Nothing(), [])):\n"
    killed = start(run, code + "    os.kill(os.getpid(), 9)")
    assert killed.wait(60) == -signal.SIGKILL
    assert chain(run).value() == 11
    assert not [id for id in run.store if run.store.why_stale(id)]


@pytest.mark.parametrize("at", ["double 1", "next"])
def test_what_a_run_makes_beside_a_remake_is_the_number_of_one_content_and_stays_so(run: RunContext, at: str) -> None:
    chain(run, 1)
    say("hold", at)
    code = "from pipeline.engine.steps import Run\nfrom types import SimpleNamespace as N\n"
    code += "steps = Run(N(config=lambda stage: Nothing()), run, lambda *a: None)\n"
    code += "say('answer', str(steps(toy_next, steps(toy_double, steps(toy_source))).value()))"
    beside = start(run, code)
    wait_for(lambda: (run.store.root.parent / f"at {at}").exists())
    again(run, 5)
    say("hold", "")
    assert beside.wait(60) == 0
    assert now("answer") == "11" and chain(run).value() == 11


def test_nothing_is_published_when_an_input_needs_others_to_be_made_anew_first(run: RunContext) -> None:
    double = chain(run, 2)
    again(run, 5)
    with pytest.raises(
        InputChangedError, match=r"toy_next: its input double .* is stale: its input source .* has other"
    ):
        build(toy_next, Nothing(), run, [double])
    with pytest.raises(InputChangedError):
        build_piece(toy_next, Nothing(), run, [double], -1)
    assert not [id for id in run.store if id.startswith("toy_next")]
    source = build(toy_source, Nothing(), run, [])
    assert pieces(toy_double, Nothing(), run, [source]) == [0, 1]  # not "made": workers are asked for them


def test_finished_shards_of_former_content_are_made_anew(run: RunContext, caplog: pytest.LogCaptureFixture) -> None:
    source = chain(run, 1)
    build_piece(toy_double, Nothing(), run, [source], 0)  # as a worker that dies then leaves it
    assert pieces(toy_double, Nothing(), run, [source]) == [1]
    again(run, 5)
    assert chain(run, 2).value() == 10


def test_what_was_only_to_be_moved_into_place_is_not_if_its_input_has_changed(run: RunContext) -> None:
    double = chain(run, 2)
    double.path.rename(run.store.partial(str(double.id)))  # as a process that was killed at its end leaves it
    again(run, 5)
    assert chain(run, 2).value() == 10


def test_one_of_a_store_below_is_made_anew_in_ones_own_and_stays_there(run: RunContext, tmp_path: Path) -> None:
    end = chain(run)
    files = {path: path.read_bytes() for path in run.store.root.rglob("*.parquet")}
    own = RunContext(Store(tmp_path / "own", [run.store.root]), device="cpu")
    again(own, 5)
    assert chain(own).value() == 11
    assert chain(RunContext(Store(tmp_path / "own", [run.store.root]), device="cpu")).record == chain(own).record
    assert {path: path.read_bytes() for path in run.store.root.rglob("*.parquet")} == files and end.value() == 3


def test_notes_and_unfinished_folders_of_others_are_not_taken_for_ones_own(run: RunContext) -> None:
    source = chain(run, 1)
    build_piece(toy_double, Nothing(), run, [source], 0)
    progress = run.store.partial(str(toy_double.artifact_id(Nothing(), [source]))) / "progress"
    (progress / "00000.json").rename(progress / "00001.json")
    assert pieces(toy_double, Nothing(), run, [source]) == [0, 1]
    build_piece(toy_double, Nothing(), run, [source], 0)
    again(run, 5)
    other = RunContext(Store(run.store.root.parent / "other"), device="cpu")
    there = build(toy_source, Nothing(), other, [])
    folder = other.store.partial(str(toy_double.artifact_id(Nothing(), [there])))
    progress.parent.rename(folder)  # of the same artifact, made from other content elsewhere
    assert pieces(toy_double, Nothing(), other, [there]) == [0, 1]


def test_states_of_another_training_or_of_other_inputs_or_numbers_are_passed_over_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def kept(artifact: str, content: str) -> Snapshots:
        return Snapshots(tmp_path / "snapshots", {"artifact": artifact, "input_contents": {"labels": content}})

    def saved() -> Snapshots:
        for number in (1, 2):
            kept("tune-v1-a", "1").save(number, lambda path, number=number: path.write_text(f"state {number}"))
        return kept("tune-v1-a", "1")

    assert saved().newest(Path.read_text) == "state 2"
    for other in (kept("tune-v1-b", "1"), kept("tune-v1-a", "2"), Snapshots(tmp_path / "snapshots")):
        assert other.newest(Path.read_text) is None
        assert "of other work (tune-v1-a" in caplog.text
        caplog.clear()
        saved()
    for suffix in (".json", ".state"):
        (tmp_path / "snapshots" / f"000000001{suffix}").rename(tmp_path / "snapshots" / f"000000009{suffix}")
    assert kept("tune-v1-a", "1").newest(Path.read_text) == "state 2"
