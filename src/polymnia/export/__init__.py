"""What a run leaves, in the shapes that others' benchmarks take."""
