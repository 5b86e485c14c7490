"""The command `sevila`, as `python -m sevila`."""

import sys
from importlib import import_module


def main() -> int:
    """Run the command that the arguments name and return its exit status."""
    return int(import_module("sevila.cli").main())


if __name__ == "__main__":
    sys.exit(main())
