"""Plain data: recordings, findings, fixes, reports, errors. Imports nothing else of diffprof."""
