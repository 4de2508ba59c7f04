"""A patch of diffusers itself for the waits that stand there, checked on a copy of it."""
