"""One stage a file, and `chain.py`, which says what feeds what; nothing else."""
