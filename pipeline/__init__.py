"""SeViLA itself, a folder for each part; the files directly in it are what several of these use, and know none of them.

Whatever process imports it, to compute or to decode, does so before it loads a library that computes.
"""

from pipeline.environment import bound_waiting, clear_settings, open_standard_streams

open_standard_streams()
clear_settings()
bound_waiting()
