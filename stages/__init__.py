"""One stage a file, `all.py`, which lists them, and `chain.py`, which says what feeds what; nothing else."""
