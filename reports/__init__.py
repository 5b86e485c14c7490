"""Reading what runs left: results, comparison, seeds, named runs, answers in words, the benchmark and its history."""
