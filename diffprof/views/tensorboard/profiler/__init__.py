"""torch-tb-profiler's pages, changed: see the README here. Everything that knows that package's insides is in
this folder, and made for one version of it (`version`)."""

NAME = "diffprof_profiler"
"""Of the plugin, in addresses."""
