"""What commands do: results, comparisons, sweeps, the paper's tables, questions asked, exports, the benchmark, listings."""
