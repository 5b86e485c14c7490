"""Inputs rebuilt during or after a build: artifacts of the old content are never returned."""

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
from pipeline.engine.build import build, build_missing, count_missing, rebuild
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


def signal_text(name: str) -> str:
    """Return the current text of a signal, which other processes can write."""
    path = Path(os.environ["TOY_SIGNALS"]) / name
    return path.read_text() if path.exists() else ""


def write_signal(name: str, text: str) -> None:
    (Path(os.environ["TOY_SIGNALS"]) / name).write_text(text)


@stage(version=1, output=Value)
def toy_source(cfg: Nothing, run: RunContext, *, out: Output) -> None:
    """The value of the signal `source`, which can change between builds."""
    out.write_rows("value", [{"value": int(signal_text("source"))}])


@stage(version=1, output=Value, plan=lambda cfg, run, source: Plan([[0], [1]]))
def toy_double(cfg: Nothing, run: RunContext, source: Value, *, out: ShardedOutput) -> None:
    """The source in each of two shards, which doubles the sum."""
    value = source.value()

    def work(shard: Shard) -> None:
        write_signal(f"at double {shard.number}", "")
        while signal_text("hold") == f"double {shard.number}":
            time.sleep(0.01)
        shard.write_rows("value", [{"value": value}])

    out.each_shard(work)


@stage(version=1, output=Value)
def toy_next(cfg: Nothing, run: RunContext, double: Value, *, out: Output) -> None:
    """The double plus one."""
    value = double.value()
    write_signal("at next", "")
    while signal_text("hold") == "next":
        time.sleep(0.01)
    out.write_rows("value", [{"value": value + 1}])


def build_first_shard(run: RunContext, source: Value) -> None:
    """Build shard 0 of the double, as beside another process that has locked shard 1 and dies."""
    with run.store.lock(f"{toy_double.artifact_id(Nothing(), [source])}/00001"):
        build_missing(toy_double, Nothing(), run, [source])


CHAIN = (toy_source, toy_double, toy_next)


def chain(run: RunContext, n_stages: int = 3) -> Any:
    artifacts: list[Artifact] = []
    for toy_stage in CHAIN[:n_stages]:
        artifacts.append(build(toy_stage, Nothing(), run, artifacts[-1:]))
    return artifacts[-1]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContext:
    monkeypatch.setenv("TOY_SIGNALS", str(tmp_path))
    write_signal("source", "1")
    return RunContext(Store(tmp_path / "store"), device="cpu")


def rebuild_source(run: RunContext, value: int) -> None:
    write_signal("source", str(value))
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


def start_process(run: RunContext, code: str) -> subprocess.Popen[bytes]:
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    return subprocess.Popen([sys.executable, "-c", PROCESS.format(paths=paths, store=str(run.store.root), code=code)])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_changed_source_makes_the_whole_chain_stale(run: RunContext) -> None:
    assert chain(run).value() == 3
    rebuild_source(run, 5)
    end = str(toy_next.artifact_id(Nothing(), [chain(run, 2)]))
    assert run.store.why_stale(end) and chain(run).value() == 11 and not run.store.why_stale(end)


def test_a_rebuild_with_equal_content_keeps_downstream_artifacts(run: RunContext) -> None:
    before = chain(run).record
    rebuild_source(run, 1)
    assert chain(run).record == before


def test_the_next_run_after_a_killed_rebuild_rebuilds_downstream_artifacts(run: RunContext) -> None:
    assert chain(run).value() == 3
    write_signal("source", "5")
    code = "from cache.rebuilding import set_aside\nwith set_aside(run.store, toy_source.artifact_id(Nothing(), [])):\n"
    killed = start_process(run, code + "    os.kill(os.getpid(), 9)")
    assert killed.wait(60) == -signal.SIGKILL
    assert chain(run).value() == 11
    assert not [id for id in run.store if run.store.why_stale(id)]


@pytest.mark.parametrize("at", ["double 1", "next"])
def test_a_run_during_a_rebuild_uses_one_content_of_the_source(run: RunContext, at: str) -> None:
    chain(run, 1)
    write_signal("hold", at)
    code = "from pipeline.engine.steps import Run\nfrom types import SimpleNamespace as N\n"
    code += "steps = Run(N(config=lambda stage: Nothing()), run, lambda *a: None)\n"
    code += "write_signal('answer', str(steps(toy_next, steps(toy_double, steps(toy_source))).value()))"
    process = start_process(run, code)
    wait_for(lambda: (run.store.root.parent / f"at {at}").exists())
    rebuild_source(run, 5)
    write_signal("hold", "")
    assert process.wait(60) == 0
    assert signal_text("answer") == "11" and chain(run).value() == 11


def test_a_stage_with_a_stale_input_publishes_nothing(run: RunContext) -> None:
    double = chain(run, 2)
    rebuild_source(run, 5)
    with pytest.raises(
        InputChangedError, match=r"toy_next: its input double .* is stale: its input source .* has other"
    ):
        build(toy_next, Nothing(), run, [double])
    with pytest.raises(InputChangedError):
        build_missing(toy_next, Nothing(), run, [double])
    assert not [id for id in run.store if id.startswith("toy_next")]
    source = build(toy_source, Nothing(), run, [])
    assert count_missing(toy_double, Nothing(), run, [source]) == 2  # needed, although an old artifact exists


def test_finished_shards_of_old_content_are_rebuilt(run: RunContext) -> None:
    source = chain(run, 1)
    build_first_shard(run, source)
    assert count_missing(toy_double, Nothing(), run, [source]) == 1
    rebuild_source(run, 5)
    assert chain(run, 2).value() == 10


def test_a_complete_partial_artifact_is_not_published_after_its_input_changed(run: RunContext) -> None:
    double = chain(run, 2)
    double.path.rename(run.store.partial(str(double.id)))  # like a process killed before publication
    rebuild_source(run, 5)
    assert chain(run, 2).value() == 10


def test_a_rebuild_of_an_artifact_of_a_base_store_is_written_to_the_own_store(run: RunContext, tmp_path: Path) -> None:
    end = chain(run)
    files = {path: path.read_bytes() for path in run.store.root.rglob("*.parquet")}
    own = RunContext(Store(tmp_path / "own", [run.store.root]), device="cpu")
    rebuild_source(own, 5)
    assert chain(own).value() == 11
    assert chain(RunContext(Store(tmp_path / "own", [run.store.root]), device="cpu")).record == chain(own).record
    assert {path: path.read_bytes() for path in run.store.root.rglob("*.parquet")} == files and end.value() == 3


def test_shard_notes_of_another_shard_or_content_are_ignored(run: RunContext) -> None:
    source = chain(run, 1)
    build_first_shard(run, source)
    progress = run.store.partial(str(toy_double.artifact_id(Nothing(), [source]))) / "progress"
    (progress / "00000.json").rename(progress / "00001.json")
    assert count_missing(toy_double, Nothing(), run, [source]) == 2
    build_first_shard(run, source)
    rebuild_source(run, 5)
    other = RunContext(Store(run.store.root.parent / "other"), device="cpu")
    there = build(toy_source, Nothing(), other, [])
    folder = other.store.partial(str(toy_double.artifact_id(Nothing(), [there])))
    progress.parent.rename(folder)  # of the same artifact from other content
    assert count_missing(toy_double, Nothing(), other, [there]) == 2


def test_snapshots_of_another_training_input_or_step_are_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def snapshots(artifact: str, content: str) -> Snapshots:
        return Snapshots(tmp_path / "snapshots", {"artifact": artifact, "input_contents": {"labels": content}})

    def save_two() -> Snapshots:
        for number in (1, 2):
            snapshots("tune-v1-a", "1").save(number, lambda path, number=number: path.write_text(f"state {number}"))
        return snapshots("tune-v1-a", "1")

    assert save_two().newest(Path.read_text) == "state 2"
    for other in (snapshots("tune-v1-b", "1"), snapshots("tune-v1-a", "2"), Snapshots(tmp_path / "snapshots")):
        assert other.newest(Path.read_text) is None
        assert "of other work (tune-v1-a" in caplog.text
        caplog.clear()
        save_two()
    for suffix in (".json", ".state"):
        (tmp_path / "snapshots" / f"000000001{suffix}").rename(tmp_path / "snapshots" / f"000000009{suffix}")
    assert snapshots("tune-v1-a", "1").newest(Path.read_text) == "state 2"
