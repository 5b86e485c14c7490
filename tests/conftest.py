import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline.registry import entry_points_of_others

# The repository's folders are installed as parts of `sevila` only; child processes of tests import them by their own names.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))

Package = Callable[..., None]
os.environ.setdefault("SEVILA_REPORT", "no")  # writing a page takes seconds for each of hundreds of runs
settings.register_profile("untimed", deadline=None)  # a busy machine must not fail a test
settings.load_profile("untimed")
pytest.register_assert_rewrite("tests.flow_access", "tests.flow_pieces")  # test_flows.py runs their tests


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parity-dir",
        type=Path,
        default=Path(__file__).parent / "golden" / "parity",
        help="folder of reference numbers to reproduce (layout: tests/golden/README.md)",
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Return a function that installs a package of one module with an entry point `name`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(
        name: str, code: str, distribution: str = "theirs", target: str = "", group: str = "sevila.selectors"
    ) -> None:
        module = f"{distribution}_{group.split('.')[1]}"
        (tmp_path / f"{module}.py").write_text(code)
        folder = tmp_path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        entry = module if group == "sevila.datasets" else f"{module}:{target or name}"
        (folder / "entry_points.txt").write_text(f"[{group}]\n{name} = {entry}\n")
        entry_points_of_others.cache_clear()

    yield install
    entry_points_of_others.cache_clear()
    for module in [module for module in sys.modules if module.startswith("theirs_")]:
        del sys.modules[module]


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # pytest-xdist would start the files with most tests, not the longest, first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that they do not delay the end of a parallel run."""
    items.sort(key=lambda item: item.path.name not in ("test_flows.py", "test_readme.py"))
