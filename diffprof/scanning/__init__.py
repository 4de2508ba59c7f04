"""The flow of a scan: target, call, evidence, report. Read `scan` first."""
