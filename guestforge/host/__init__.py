"""The machine that builds run on: what of it they need, whether that is there, and how it gets there."""
