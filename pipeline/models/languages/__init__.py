"""The supported kinds of language model, one per file, each with the keys that are read from foreign configurations."""
