"""Runs in TensorBoard: what is written into their folders (`files`), the profiler plugin that shows it
without the internet (`plugin`), and how both are served (`server`)."""
