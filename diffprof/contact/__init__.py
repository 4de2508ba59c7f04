"""First contact with a real GPU: `python -m diffprof.contact OUT/` tries what diffprof claims about CUDA.

Eight parts, the most important first, each in a process of its own with a time of its own. What a part found
is stored item by item, so that nothing is lost where it is stopped; called again, it goes on. The report says
where the witnesses agree and lists what disagreed. No network, no weights, no test runner.
"""
