"""The one exception of the benchmarks: its message is for the person who ran the command."""


class BenchmarkError(Exception):
    """Something is missing, did not start or answered wrongly."""
