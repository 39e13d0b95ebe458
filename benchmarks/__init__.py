"""Benchmarks: ``micro`` for pure functions, ``system`` for real workers on a real broker. Not tests: they assert no speed."""
