"""Reports on finished runs: results, comparisons, sweeps, the paper's tables, listings and sizes of a store, the data sets, the benchmark."""
