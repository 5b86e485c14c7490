"""The kinds of language model that may stand behind the Q-Former, one a file: which keys of a foreign configuration are taken."""
