"""Benchmarks: ours beside other implementations, timed interleaved in one process."""
