"""Reading what runs left: results, comparison, seeds, named runs, answers in words, listings and sizes of a store, the benchmark."""
