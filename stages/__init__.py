"""The stages, one per file, `all.py`, which lists them, and `chain.py`, which connects them; nothing else."""
