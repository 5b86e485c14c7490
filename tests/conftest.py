import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.selection.registry import entry_points_of_others

Package = Callable[..., None]
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
    """Return a function that installs a package of one module, and a selector named `name` by its entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, code: str, distribution: str = "theirs", target: str = "") -> None:
        module = f"{distribution}_selectors"
        (tmp_path / f"{module}.py").write_text(code)
        folder = tmp_path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[sevila.selectors]\n{name} = {module}:{target or name}\n")
        entry_points_of_others.cache_clear()

    yield install
    entry_points_of_others.cache_clear()
    for module in [module for module in sys.modules if module.endswith("_selectors")]:
        del sys.modules[module]


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = (
        False  # pytest-xdist would begin with the files of most tests, not with the longest
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes by far the longest, so that others run beside it and none waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_flows.py")
