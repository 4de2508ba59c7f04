"""`python -m diffprof`."""

from __future__ import annotations

from diffprof.cli import main

main()
