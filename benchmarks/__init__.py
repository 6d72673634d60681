"""Measurements that the README quotes: ``python -m benchmarks.NAME`` writes ``benchmarks/results/NAME.json``."""
