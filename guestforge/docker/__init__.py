"""Builds in containers of a Docker engine: `./invoke` itself runs in a builder image, on this machine's files.

`engine` finds the engine and tells its errors, `apt` is where packages come from, `base` and `builder` make the image,
`container` runs one container (`confine`: what it may do; `owner`: whose it is), `shipping` sends files to an engine
that has none of ours, `delegate` has a task run there, and `spread` does at several engines.
"""

from typing import Final

# The modules that other packages may import.
FACE: Final[tuple[str, ...]] = ("delegate",)
