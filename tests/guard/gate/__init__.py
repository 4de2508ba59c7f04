"""The gate on diffusers: all pipelines of the corpus, with what is known of them.

python -m tests.guard.gate           # writes diffusers.toml anew
diffprof check --config tests/guard/gate/diffusers.toml
"""
