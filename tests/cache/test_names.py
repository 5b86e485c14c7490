import os
from pathlib import Path

from cache.errors import StoreError
from cache.names import named_run, pinning
from cache.store import Store


def test_one_of_three_concurrent_runs_gets_a_new_name(tmp_path: Path) -> None:
    for attempt in range(5):
        start = tmp_path / f"go{attempt}"
        children = []
        for number in range(3):
            child = os.fork()
            if child == 0:
                while not start.exists():
                    pass
                try:
                    with pinning(Store(tmp_path), f"x{attempt}", "recipe", {"make": {"number": number}}, []):
                        os._exit(number)
                except StoreError:
                    os._exit(9)
            children.append(child)
        start.touch()
        statuses = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        assert statuses[1:] == [9, 9]
        assert named_run(Store(tmp_path), f"x{attempt}").settings == {"make": {"number": statuses[0]}}
