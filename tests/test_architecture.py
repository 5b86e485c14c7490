"""The rooms and their one-way doors, as facts about the import statements."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import stages.chain  # noqa: F401 - declares the stages
from pipeline.engine.stage import STAGES

ROOT = Path(__file__).parents[1]
ROOMS = {
    "cache": {"cache"},
    "pipeline": {"pipeline", "cache"},
    "stages": {"stages", "pipeline", "cache"},
    "workers": {"workers", "stages", "pipeline", "cache"},
    "flows": {"flows", "workers", "stages", "pipeline", "cache"},
    "cli": {"cli", "stages", "pipeline", "cache"},
}
OWNERS = {
    "h5py": {"cache"},
    "pyarrow": {"cache"},
    "decord": {"pipeline"},
    "av": {"pipeline"},
    "transformers": {"pipeline"},
    "tokenizers": {"pipeline"},
    "accelerate": {"pipeline"},
    "webvtt": {"pipeline"},
    "tqdm": {"stages"},
    "matplotlib": {"stages"},
    "prefect": {"flows", "workers"},
    "ray": {"workers"},
    "prefect_ray": {"workers"},
}
# What the files of pipeline/ that do not know what a store is may see of cache/: errors, names, how a file is opened and
# text made printable.
OPEN_TO_ALL = ("cache.errors", "cache.files", "cache.printable", "cache.untrusted")
KNOWS_THE_STORE = {
    "stage.py",
    "output.py",
    "build.py",
    "rebuild.py",
    "sources.py",
    "read_inputs.py",
    "snapshots.py",
    "video_bytes.py",
    "weights.py",
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def sources() -> list[Path]:
    return [
        path
        for room in ROOMS
        for path in ([ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else sorted((ROOT / room).rglob("*.py")))
    ]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_through_open_doors_only(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in ROOMS or top in ROOMS[room], f"{path} imports {name}"
        assert room in OWNERS.get(top, {room}), f"{path} imports {name}, which belongs to {OWNERS[top]}"
        if room == "cache":
            assert top != "torch", f"{path} imports torch"
        if room == "pipeline" and path.name not in KNOWS_THE_STORE:
            assert top != "cache" or name in OPEN_TO_ALL, f"{path} imports {name}"


def test_no_stage_runs_another_stages_body() -> None:
    for path in (ROOT / "stages").glob("*.py"):
        if path.name == "chain.py":
            continue
        stage = path.stem
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages."):
                other = node.module.split(".")[1] if node.module else ""
                imported = {alias.name for alias in node.names}
                assert other == stage or other not in STAGES.keys() & imported, f"{path} imports {other}()"


def test_data_sets_are_named_in_their_own_files_only() -> None:
    for path in sources():
        if path.parent.name == "datasets" or path.name == "prompts.py":
            continue
        text = path.read_text().lower()
        code = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        assert not {"nextqa", "star", "how2qa", "tvqa", "vlep"} & {value for value in code if isinstance(value, str)}, (
            path
        )


def test_every_package_is_part_of_the_distribution() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {path.parent for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    assert {str(folder.relative_to(ROOT)).replace("/", ".") for folder in found} == set(listed)
