"""Releases: checked guests as files that others can fetch, check offline and trust.

One file a part: `proven` says what may be released, `names` what it is called, `tar` and `archive` how one guest is
packed, `contents` what a packed one must hold, `sums` and `sign` what stands for all files, `bundle` makes a release's
directory and `verify` judges one.
"""

from typing import Final

# The modules that other packages may import.
FACE: Final[tuple[str, ...]] = ("bundle", "proven", "sign", "verify")
