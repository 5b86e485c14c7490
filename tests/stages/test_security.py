"""Artifacts, checkpoints and recipes of unknown origin: opening one runs no code and reads no other file."""

import ast
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cache.errors import CheckpointError, CorruptArtifactError, RecipeError, StoreError
from cache.notes import read_note, write_note
from cache.pool_reader import PoolReader
from cache.record import Record, artifact_id, describe_files
from cache.store import Store
from cache.tables import Schema, read_rows, write_rows
from pipeline.engine.recipe import load
from pipeline.engine.stage import Artifact
from pipeline.models.config import read_blip2_config
from pipeline.models.tensors import open_checkpoint
from reports.artifacts import description
from stages.all import STAGES

ROOT = Path(__file__).parents[2]
SCHEMA = Schema(1, question_id="string")


class Hostile:
    """An object whose pickle creates a folder when it is loaded without restrictions."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.proof),)


def write_pickle(path: Path, hostile: Hostile) -> None:
    path.write_bytes(pickle.dumps({"model": hostile}, protocol=2))


def write_zip(path: Path, hostile: Hostile) -> None:
    torch.save({"model": {"weight": torch.zeros(2)}}, path)
    with zipfile.ZipFile(path) as original:
        content = {name: original.read(name) for name in original.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as changed:
        for name, data in content.items():
            changed.writestr(name, pickle.dumps(hostile, protocol=2) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("write", [write_pickle, write_zip])
@pytest.mark.parametrize("name", ["official.pth", "folder/pytorch_model.bin"])
def test_a_pickle_with_code_is_refused_and_not_run(
    write: Callable[[Path, Hostile], None], name: str, tmp_path: Path
) -> None:
    path, proof = tmp_path / name, tmp_path / "it_ran"
    path.parent.mkdir(exist_ok=True)
    write(path, Hostile(proof))
    with pytest.raises(CheckpointError, match=path.name):
        open_checkpoint(path if path.suffix == ".pth" else path.parent)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Hostile(proof)))
    assert proof.exists()  # the pickle does run when nothing refuses it


def test_no_module_unpickles_or_reads_foreign_yaml() -> None:
    for folder in ("cache", "pipeline", "stages", "reports", "workers", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                    own = {"yaml"} if path.name == "up.py" else set()  # reads the project's own automations.yaml
                    assert not names & {"yaml", "dill", "cloudpickle", "joblib", "marshal", "shelve"} - own, path
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    call = f"{ast.unparse(node.func)}"
                    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert call not in ("pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load"), path
                    assert call != "torch.load" or given.get("weights_only") == "True", path
                    assert call not in ("np.load", "numpy.load") or given.get("allow_pickle") == "False", path


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (1 << 62, b"{}"),
        (None, json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}).encode()),
        (None, json.dumps({"a": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 8]}}).encode()),
        (None, b"[" * 100_000),
    ],
)
def test_safetensors_with_a_false_header_are_refused_before_memory_is_allocated(
    size: int | None, header: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + bytes(8))
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        open_checkpoint(path)


def test_an_index_that_names_files_outside_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    for name in ("../secret.safetensors", str(tmp_path / "secret.safetensors")):
        content = {"weight_map": {"a": name}}
        (tmp_path / "weights" / "model.safetensors.index.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=r"index\.json: names the file .*secret"):
            open_checkpoint(tmp_path / "weights")


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "1" * (20 << 20), "null", "\x00"])
def test_hostile_json_is_refused_with_its_file_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_blip2_config(tmp_path)
    with pytest.raises(CorruptArtifactError, match=r"config\.json"):
        read_note(tmp_path / "config.json")


@pytest.mark.parametrize(
    "content", ["description = " + "[" * 100_000, "# " + "x" * (2 << 20), "a = 1979-05-27", "[x]\ny = !!python/object"]
)
def test_a_hostile_recipe_is_refused_with_its_file_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "hostile.toml").write_text(content)
    with pytest.raises(RecipeError, match=r"hostile\.toml"):
        load(str(tmp_path / "hostile.toml"), STAGES)


class Things(Artifact):
    kind = "things"
    tables = {"things": SCHEMA}


def publish(store: Store, write: Callable[[Path], object], n_rows: int = 1) -> Things:
    id = artifact_id("make_things", 1, {}, {})
    (store.partial(id)).mkdir(parents=True)
    write(store.partial(id) / "things.parquet")
    files = describe_files(store.partial(id), ["things.parquet"])
    store.publish(Record(id, "make_things", 1, "things", {}, {}, files=files, rows={"things": n_rows}))
    return Things(store, id)


def test_a_table_with_more_rows_than_its_record_is_not_read(tmp_path: Path) -> None:
    def write_bomb(path: Path) -> None:  # 160 MB of text in a few hundred bytes
        column = pa.chunked_array([pa.array(["x" * 1000] * 40_000, pa.string()).dictionary_encode()] * 4).cast(
            pa.string()
        )
        table = pa.Table.from_arrays([column], schema=SCHEMA.arrow())
        pq.write_table(table, path, compression="zstd")

    things = publish(Store(tmp_path), write_bomb)
    assert (things.path / "things.parquet").stat().st_size < 100_000
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    with pytest.raises(CorruptArtifactError, match=r"things\.parquet: claims 160000 rows, expected 1"):
        things.rows("things")
    assert pa.total_allocated_bytes() - before < 1 << 20 and tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("tail", [struct.pack("<I", 0xFFFFFFFF) + b"PAR1", struct.pack("<I", 64) + b"PAR1"])
def test_parquet_with_a_false_footer_is_refused_with_its_file_name(tail: bytes, tmp_path: Path) -> None:
    write_rows(tmp_path / "x.parquet", SCHEMA, [{"question_id": "q"}])
    original = (tmp_path / "x.parquet").read_bytes()
    for content in (original[:-8] + tail, original[:4] + b"\xff" * 500 + struct.pack("<I", 500) + b"PAR1"):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(CorruptArtifactError, match=r"x\.parquet"):
            read_rows([tmp_path / "x.parquet"], SCHEMA)


def test_a_link_out_of_an_artifact_is_not_followed(tmp_path: Path) -> None:
    things = publish(Store(tmp_path / "store"), lambda path: write_rows(path, SCHEMA, [{"question_id": "q"}]))
    path = things.path / "things.parquet"
    path.rename(tmp_path / "secret.parquet")
    path.symlink_to(tmp_path / "secret.parquet")
    with pytest.raises(CorruptArtifactError, match="leads out"):
        things.rows("things")
    things.record.schemas["things"] = SCHEMA.as_dict()
    write_note(things.path / "record.json", things.record.__dict__)
    with pytest.raises(CorruptArtifactError, match="leads out"):
        description(things.store, "make_things", 3)


def test_a_foreign_record_cannot_name_files_outside_its_artifact(tmp_path: Path) -> None:
    things = publish(Store(tmp_path), lambda path: write_rows(path, SCHEMA, [{"question_id": "q"}]))
    write_rows(tmp_path / "secret.parquet", SCHEMA, [{"question_id": "secret"}])
    files = describe_files(tmp_path, ["secret.parquet"])
    for name in ("things/../../../secret.parquet", f"{tmp_path}/secret.parquet"):
        record = things.store.record(things.id or "").__dict__ | {"files": {name: files["secret.parquet"]}}
        path = things.path / "record.json"
        original = path.read_bytes()
        write_note(path, record)
        with pytest.raises(CorruptArtifactError, match="leads out of the artifact"):
            Things(things.store, things.id).rows("things")
        path.write_bytes(original)


@pytest.mark.parametrize("place", [("../../secret", "part"), ("key", "../../../../secret"), ("/etc", "passwd")])
def test_a_foreign_table_cannot_name_parts_outside_the_pool(place: tuple[str, str], tmp_path: Path) -> None:
    numbers = np.array([[0]], "int32")
    columns = {"video_id": ["v"], "key": [place[0]], "part": [place[1]], "rows": numbers, "part_rows": numbers}
    columns["frame_indices"] = numbers
    reader = PoolReader(Store(tmp_path), "space", {name: np.array(values) for name, values in columns.items()})
    with pytest.raises(CorruptArtifactError, match="it is not read"):
        reader.read("v", slice(0, 1))


@pytest.mark.parametrize("id", ["../secret", "/etc/passwd", "a/b", "", ".", "..", "a\0b", "a" * 300, "a b"])
def test_an_id_cannot_lead_out_of_the_store(id: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not an artifact id"):
        Store(tmp_path).path(id)
