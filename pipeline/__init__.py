"""SeViLA itself, with a folder for each part; the files directly in it are shared by several parts, and import none of them.

A process must import it before numerical libraries, because it sets environment variables that they read on load.
"""

from pipeline.environment import bound_waiting, clear_settings, open_standard_streams

open_standard_streams()
clear_settings()
bound_waiting()
