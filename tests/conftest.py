import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline.registry import entry_points_of_others

# The folders of the repository are installed as parts of `sevila` only: what tests start finds them by their own names.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))

Package = Callable[..., None]
os.environ.setdefault("SEVILA_REPORT", "no")  # a page at the end of each of hundreds of runs is seconds each
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")
pytest.register_assert_rewrite("tests.flow_doors", "tests.flow_pieces")  # whose tests test_flows.py runs


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parity-dir",
        type=Path,
        default=Path(__file__).parent / "golden" / "parity",
        help="folder of reference numbers to reproduce (layout: tests/golden/README.md)",
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Return a function that installs a package of one module, and what is named `name` by its entry point."""
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
    config.option.loadscopereorder = (
        False  # pytest-xdist would begin with the files of most tests, not with the longest
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take by far the longest, so that others run beside them and none waits for them at the end."""
    items.sort(key=lambda item: item.path.name not in ("test_flows.py", "test_readme.py"))
