"""Allowed imports between rooms, owners of libraries, and limits on sizes and names."""

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import sevila.rooms
from pipeline.datasets.registry import adapter_names
from pipeline.engine.stage import Artifact, Stage
from stages.all import STAGES

ROOT = Path(__file__).parents[1]

# What each room may import, lowest first. A room is a folder, or a file of that name.
ROOMS = {
    "cache": {"cache"},
    "pipeline": {"pipeline", "cache"},
    "stages": {"stages", "pipeline", "cache"},
    "reports": {"reports", "stages", "pipeline", "cache"},
    "workers": {"workers", "reports", "stages", "pipeline", "cache"},
    "flows": {"flows", "workers", "reports", "stages", "pipeline", "cache"},
    "cli": {"cli", "workers", "reports", "stages", "pipeline", "cache"},
    "sevila": {"sevila", "reports", "stages", "pipeline", "cache"},
    "benchmarks": {"benchmarks", "tests", "sevila", "stages", "pipeline", "cache"},  # uses models and videos of tests
}
DISTRIBUTED = [room for room in ROOMS if room not in ("benchmarks", "flows")]  # installed rooms
OURS = {*ROOMS, "tests"}  # tests and benchmarks are imported only where ROOMS allows it

# What each folder of pipeline/ may import from the others. All may import files directly in pipeline/, which import no folder.
RECORDS = {"datasets"}
LOW = {*RECORDS, "video", "metrics", "selection"}  # these know only records and numpy
PIPELINE = {
    "datasets": set(),
    "video": RECORDS,
    "metrics": RECORDS,
    "selection": {*RECORDS, "metrics"},
    "models": LOW,
    "engine": set(),
    "inference": {*LOW, "models", "engine"},
    "training": {*LOW, "models", "engine", "inference"},
    "shapes": {*LOW, "models"},
    "recipes": {*LOW, "models", "engine", "inference", "shapes"},  # for the data of the demo
    "benchmarks": {"engine"},
}
EXCEPTIONS = {
    # `[chain]` names the pre-training data set and the selectors; unknown names are errors when the recipe is read.
    "pipeline/engine/recipe.py": {"pipeline.datasets.registry", "pipeline.selection.registry"},
    # Identities of sources depend on which files of a data set are read and which file is which video.
    "pipeline/engine/sources.py": {
        "pipeline.datasets.adapter",
        "pipeline.datasets.question",
        "pipeline.datasets.registry",
        "pipeline.datasets.readers.score_files",
        "pipeline.datasets.readers.subtitles",
        "pipeline.video.image_names",
        "pipeline.video.video_folder",
    },
}

# Files of stages/ without a stage.
NO_STAGE = ("__init__", "all", "ask_chain", "chain", "extensions", "replaceable")

# Who may import a library.
OWNERS = {
    "h5py": {"cache", "benchmarks"},
    "pyarrow": {"cache", "sevila/tables.py"},  # the latter for a return type
    "pandas": {"sevila/tables.py"},
    "polars": {"sevila/tables.py"},
    "fsspec": {"cache"},
    "decord": {"pipeline/video", "benchmarks"},
    "av": {"pipeline/video", "pipeline/shapes"},  # shapes writes videos
    "transformers": {"pipeline/models", "pipeline/shapes", "pipeline/training", "benchmarks"},
    "tokenizers": {"pipeline/models", "pipeline/shapes"},
    "accelerate": {"pipeline/training"},
    "webvtt": {"pipeline/datasets"},
    "tqdm": {"pipeline/engine"},
    "matplotlib": {"reports"},
    "jinja2": {"reports"},
    "gradio": {"reports/ask_server.py"},
    "starlette": {"reports/ask_server.py"},  # part of Gradio
    "markupsafe": {"reports"},
    "PIL": {"pipeline/video", "pipeline/models/image_text.py"},
    "cyclopts": {"cli"},
    "rich": {"cli", "pipeline/text_table.py"},
    "prefect": {"flows.py", "workers"},
    "coolname": {"workers"},  # words in Prefect's run names
    # For errors of Prefect's client, for model servers, and to check an address.
    "httpx": {"workers", "pipeline/inference", "pipeline/engine"},
    "ray": {"workers"},
    "prefect_ray": {"workers"},
}
# Folders that must not import torch.
WITHOUT_TORCH = ("cache", "pipeline/datasets", "pipeline/video", "pipeline/metrics", "pipeline/selection")

# Files outside pipeline/datasets/ that may name or import data sets:
NAMES_A_DATA_SET = {
    "stages/list_questions.py": {"plain"},  # the default is the user's own questions
    "cli/app.py": {"plain"},  # a help formatter
    "reports/ask_run.py": {"plain"},  # the recipe
    "pipeline/shapes/files.py": {"timed_text"},  # a folder of the demo
    "pipeline/shapes/demo.py": {"timed_text"},
    "benchmarks/floors.py": {"plain"},
    "benchmarks/gpu.py": {"plain"},
    "benchmarks/many_questions.py": {"plain"},
    "benchmarks/official.py": {"plain"},
    "benchmarks/world.py": {"plain"},
    # Submissions have the format of the annotations.
    "reports/moment_files.py": {"pipeline.datasets.qvhighlights"},
}

# The functions of stages/ that take or return `dict[str, Any]`; everything else has a type.
UNTYPED_IN_STAGES = {
    "answer_questions._frame_rows",  # rows to be written
    "label_frames.figures",  # printed figures
    # Unvalidated options of a selector, as in a recipe.
    *("select_keyframes._method_from_selector", "select_keyframes._complete"),
    *("select_keyframes.without_later", "select_keyframes._options"),
}
# The API's models on tensors have the names of the pipeline's models on features: they add the ViT.
SHARED_CLASS_NAMES = {"Localizer", "Answerer"}
# `import pipeline` clears variables that BLAS libraries read, before any of these is loaded.
IMPORT_FOR_SIDE_EFFECT = {"flows.py", "cli/__init__.py"}
# Constants that each module of a kind defines.
PER_MODULE_CONSTANTS = {"name", "about", "headline", "pooled_types", "log"}
MOST_FILE_LINES = 300
MOST_CHAIN_LINES = 120  # of stages/chain.py
MOST_FUNCTION_LINES = 40
MOST_PARAMETERS = 9
# Names that do not say what a value is: use rows, message, artifact and so on.
VAGUE_NAMES = {"tell", "told", "found", "made", "apart", "heard", "opened", "ended", "together", "some"}
VAGUE_NAMES |= {"have_made", "said", "mends"}
LIBRARY_NAMES = {("pipeline/video/containers.py", "tell")}  # method of a file

# Modules of cache/ that every file of pipeline/ may import; those about the store are for the engine.
STORE_INDEPENDENT = ("cache.errors", "cache.files", "cache.lazy", "cache.printable", "cache.untrusted")
STORE_EXCEPTIONS = {
    "pipeline/datasets/readers/parquet_file.py": {"cache.parquet"},  # annotations in Parquet files
    "pipeline/video/video_bytes.py": {"cache.digests"},  # checks that a file is unchanged
    "pipeline/inference/frame_encoding.py": {"cache.pool", "cache.pool_reader"},  # stores encoded frames
    "pipeline/video/stored_video.py": {"cache.pool"},  # stores sampled frames
    "pipeline/training/prompt_training.py": {"cache.pool_reader"},  # type of the feature reader
    "pipeline/shapes/demo.py": {"cache.store"},  # the demo's data is in the store
}


@cache
def imports(path: Path) -> tuple[str, ...]:
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in names if _is_module(name)]
            yield from modules
            if len(modules) < len(names):
                yield node.module


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def sources(*rooms: str) -> list[Path]:
    return [
        path
        for room in rooms or ROOMS
        for path in ([ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else sorted((ROOT / room).rglob("*.py")))
    ]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    """Return the folder of pipeline/ that holds a file; "" for a file directly in pipeline/."""
    parts = path.relative_to(ROOT / "pipeline").parts
    return parts[0] if len(parts) > 1 else ""


def test_rooms_import_only_allowed_rooms() -> None:
    for path in sources():
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for name in imports(path):
            top = name.split(".")[0]
            assert top not in OURS or top in ROOMS[room], f"{path} imports {name}"


def test_a_library_is_imported_by_its_owners_only() -> None:
    for path in sources():
        for name in imports(path):
            owners = OWNERS.get(name.split(".")[0])
            assert owners is None or name_of(path).startswith(tuple(owners)), f"{path} imports {name}, {owners} may"
            is_torch = name.split(".")[0] == "torch"
            assert not is_torch or not name_of(path).startswith(WITHOUT_TORCH), f"{path} imports torch"


def test_pipeline_folders_import_only_allowed_folders() -> None:
    for path in sources("pipeline"):
        here = part_of(path)
        allowed = {here, *PIPELINE[here]} if here else set()
        for name in imports(path):
            there = name.split(".")[1] if name.startswith("pipeline.") else ""
            if there in PIPELINE and name not in EXCEPTIONS.get(name_of(path), ()):
                assert there in allowed, f"{path} imports {name}"


def test_only_the_engine_imports_the_store() -> None:
    for path in sources("pipeline"):
        for name in imports(path) if part_of(path) != "engine" else ():
            if name.startswith("cache"):
                assert name in STORE_INDEPENDENT or name in STORE_EXCEPTIONS.get(name_of(path), ()), (
                    f"{path} imports {name}"
                )


def test_every_exception_is_still_needed() -> None:
    for name, modules in [*EXCEPTIONS.items(), *STORE_EXCEPTIONS.items()]:
        assert modules <= set(imports(ROOT / name)), name
    assert set(PIPELINE) == {part_of(path) for path in sources("pipeline")} - {""}


def test_each_stage_file_holds_one_registered_stage() -> None:
    for path in sources("stages"):
        if path.stem in NO_STAGE:
            continue
        decorators = [
            (node.name, decorator)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef)
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "stage"
        ]
        assert [name for name, _ in decorators] == [path.stem], f"{path}: expected one stage with the file's name"
        assert isinstance(STAGES.get(path.stem), Stage), f"stages/all.py does not list {path.stem}"


def test_a_stage_imports_only_artifact_classes_of_upstream_stages() -> None:
    order = list(STAGES)
    for path in sources("stages"):
        if path.stem in NO_STAGE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("stages") for alias in node.names), f"{path} imports a whole stage"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages"):
                assert node.module != "stages", f"{path} imports a whole stage"
                upstream = str(node.module).removeprefix("stages.")
                assert upstream in order[: order.index(path.stem)], (
                    f"{path} imports {node.module}, which is not upstream"
                )
                for alias in node.names:
                    value = getattr(import_module(str(node.module)), alias.name)
                    is_artifact = isinstance(value, type) and issubclass(value, Artifact)
                    assert is_artifact, f"{path} imports {alias.name} of {node.module}, which is not an artifact class"


def test_each_package_docstring_begins_with_one_sentence() -> None:
    folders = {path.parent for path in sources() if path.parent != ROOT}
    for folder in folders:
        about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert about, f"{folder}: expected a sentence in its __init__.py"
        sentence = about.split("\n\n")[0]
        assert sentence.endswith(".") and ". " not in sentence, f"{folder}: expected one sentence, got {sentence!r}"


def nodes(path: Path, *kinds: type[ast.AST]) -> Iterator[Any]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))


def test_files_functions_and_signatures_are_short() -> None:
    for path in sources():
        n_lines = len(path.read_text().splitlines())
        limit = MOST_FILE_LINES if path != ROOT / "stages" / "chain.py" else MOST_CHAIN_LINES
        assert n_lines <= limit, f"{path}: {n_lines} lines; it has more than one subject: split it by meaning"
        for function in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef):
            where = f"{path}:{function.lineno}: {function.name}"
            is_documented = ast.get_docstring(function) is not None
            n_docstring_lines = function.body[0].end_lineno - function.body[0].lineno + 1 if is_documented else 0
            n_lines = function.end_lineno - function.lineno + 1 - n_docstring_lines
            assert n_lines <= MOST_FUNCTION_LINES, f"{where} has {n_lines} lines without its docstring"
            arguments = function.args
            n_parameters = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])
            assert n_parameters <= MOST_PARAMETERS, f"{where} takes {n_parameters} parameters"


def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = {}
    for path in sources():
        for node in nodes(path, ast.ClassDef):
            places.setdefault(node.name.lstrip("_"), []).append(f"{path}:{node.lineno}")
    assert {name for name, where in places.items() if len(where) > 1} == SHARED_CLASS_NAMES


def test_public_function_names_are_unique() -> None:
    """Exceptions: commands (`cli/`) and the Python API, named for users, and the functions that each data set defines."""
    places: dict[str, list[str]] = {}
    for path in sources("cache", "pipeline", "stages", "reports", "workers"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(f"{path}:{node.lineno}")
    assert {name for name, where in places.items() if len(where) > 1} == {"files", "group", "read"}


def test_vague_names_are_not_used() -> None:
    for path in sources():
        for node in nodes(path, ast.Name, ast.arg, ast.Attribute, ast.FunctionDef, ast.AsyncFunctionDef, ast.keyword):
            name = next(filter(None, (getattr(node, field, None) for field in ("id", "arg", "attr", "name"))), "")
            where = (name_of(path), name.strip("_"))
            assert where in LIBRARY_NAMES or where[1] not in VAGUE_NAMES, (
                f"{path}:{node.lineno}: {name}: name the thing"
            )


def test_data_sets_are_named_only_in_their_own_files() -> None:
    data_sets = {*adapter_names(), *(f"pipeline.datasets.{name}" for name in adapter_names())}
    for path in sources():
        if path.parent.name == "datasets":
            continue
        constants = {node.value.lower() for node in nodes(path, ast.Constant) if isinstance(node.value, str)}
        names = data_sets & {*constants, *imports(path)}
        assert names == NAMES_A_DATA_SET.get(name_of(path), set()), f"{path} names {names}"


def test_stage_functions_use_typed_rows() -> None:
    untyped = set()
    for path in sources("stages"):
        for function in nodes(path, ast.FunctionDef):
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            annotations = [function.returns, *(argument.annotation for argument in arguments)]
            if any("dict[str, Any]" in ast.unparse(each) for each in annotations if each is not None):
                untyped.add(f"{path.stem}.{function.name}")
    assert untyped == UNTYPED_IN_STAGES


def test_reasons_are_never_split() -> None:
    for path in sources():
        for call in nodes(path, ast.Call):
            is_split = isinstance(call.func, ast.Attribute) and call.func.attr in ("split", "partition")
            if is_split and [ast.unparse(argument) for argument in call.args[:1]] == ["':'"]:
                assert "reason" not in ast.unparse(call.func), f"{path}:{call.lineno}: a reason has a code and a detail"


def test_only_process_settings_are_imported_for_side_effects() -> None:
    files = {name_of(path) for path in sources() if "noqa: F401" in path.read_text()}
    assert files == IMPORT_FOR_SIDE_EFFECT


def test_imported_constant_names_are_unique() -> None:
    values: dict[str, set[str]] = {}
    imported = {alias.name for path in sources() for node in nodes(path, ast.ImportFrom) for alias in node.names}
    for path in sources():
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for name in {target.id for target in targets if isinstance(target, ast.Name)} & imported:
                values.setdefault(name, set()).add(ast.unparse(node.value))  # type: ignore[attr-defined]
    assert not {
        name: meanings for name, meanings in values.items() if len(meanings) > 1 and name not in PER_MODULE_CONSTANTS
    }


def test_every_package_is_distributed_under_sevila() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for room in DISTRIBUTED for path in (ROOT / room).rglob("__init__.py")}
    names = {str(folder).replace("/", ".") for folder in folders}
    assert {name if name == "sevila" else f"sevila.{name}" for name in names} == set(settings["packages"])
    assert settings["package-dir"] == {f"sevila.{room}": room for room in sevila.rooms.ROOMS}
    assert set(DISTRIBUTED) == {"sevila", *sevila.rooms.ROOMS}


def test_data_files_are_distributed() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    listed = {
        path
        for package, names in patterns.items()
        for name in names
        for path in (ROOT / package.removeprefix("sevila.").replace(".", "/")).glob(name)
    }
    data_files = {path for room in DISTRIBUTED for path in (ROOT / room).rglob("*") if path.is_file()}
    assert {path for path in data_files if path.suffix not in (".py", ".pyc")} == listed
