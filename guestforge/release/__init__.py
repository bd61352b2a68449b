"""Releases: checked guests as files that others can fetch, check offline and trust.

One file a part: `proven` says what may be released, `names` what it is called, `tar` and `archive` how one guest is
packed, `contents` what a packed one must hold; `components` is what a guest was made of, which `cyclonedx` and `spdx`
write and `sbom` compares; `provenance` says where a release comes from (`checkouts`), in the envelope of `dsse`;
`notes` tell people what `facts` finds; `sums` and `sign` stand for all files, `bundle` makes a release's directory,
`beside` and `verify` judge one.
"""

from typing import Final

# The modules that other packages may import.
FACE: Final[tuple[str, ...]] = (
    "bundle",
    "checkouts",
    "contents",
    "documents",
    "facts",
    "names",
    "notes",
    "proven",
    "sign",
    "sums",
    "verify",
)
