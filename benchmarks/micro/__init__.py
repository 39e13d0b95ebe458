"""Nanoseconds per call of the inner parts that lie on the path of every task, without a broker.

Each module has ``cases()``; ``python -m benchmarks.micro`` runs them all.
"""
