"""Reports: results and comparisons of runs, tables of the paper, the benchmark; listings of store, data sets and machine."""
