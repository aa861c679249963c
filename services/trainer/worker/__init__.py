"""The worker: one run at a time, from claim to bundle. The only code that imports torch, and only when it builds a
graph or trains by gradient: a run of `fast` on a known backbone needs none.
"""
