"""Of the benchmarks: what they compute, count, show and leave out. No test here asserts on how long anything takes."""
