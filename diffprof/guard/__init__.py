"""Kept fast: checks in tests and in CI, what is allowed on purpose, and what was there before."""
