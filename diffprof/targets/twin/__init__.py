"""A shrunken copy of a pipeline with real values on the CPU, on which outputs are compared."""
