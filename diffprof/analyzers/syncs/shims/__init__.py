"""Source of shims, written into code that needs no diffprof: read as text, never imported by a scan.

Each file is a module of imports and definitions whose names start with an underscore. What it imports from
another of these files is written above its own definitions.
"""
