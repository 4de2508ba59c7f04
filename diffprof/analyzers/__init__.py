"""One folder a subject: a probe that collects evidence, rules that judge it, fixes that act on it."""

from __future__ import annotations

ANALYZERS = ("syncs", "kernels", "setup", "graph-breaks", "quantization")
"""What a scan can look at."""

DEFAULT_ANALYZERS = ("syncs", "kernels", "setup")
"""What a scan looks at unless told: all that takes seconds, not minutes."""
