"""Videos: which frames are looked at, what a file holds and whether it is whole, and the processes that decode it."""
