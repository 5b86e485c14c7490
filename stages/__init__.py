"""The stages, one per file, listed in `all.py`; `chain.py`, `ask_chain.py`, `replaceable.py` and `extensions.py` connect them."""
