"""The benchmarks: one module for each question, started from the repository's root as `python -m bench.peers`.

What they share is in `harness`; docs/performance.md lists them and holds their numbers. What is installed has none.
"""
