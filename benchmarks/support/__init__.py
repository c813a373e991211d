"""What the benchmarks share: a place, processes that are measured, servers, trees, figures."""
