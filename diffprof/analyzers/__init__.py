"""One folder a subject: a probe that collects evidence, rules that judge it, fixes that act on it.

Each folder's `ANALYZER` says what it holds; everything that lists analyzers reads it. Another package adds
one by an entry point of the group `diffprof.analyzers` that names its `Analyzer`.
"""
