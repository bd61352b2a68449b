"""What all tests share: how hypothesis looks for examples."""

import os

from hypothesis import settings

# A slow machine is no failure. CI tries the same examples each time, so that a change is judged by what it changed;
# elsewhere each run tries others, and what it finds becomes a test of its own.
settings.register_profile("here", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
settings.load_profile("ci" if "CI" in os.environ else "here")
