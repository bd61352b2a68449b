"""Trees for property tests: names, owners, modes and contents of every kind that an image may have."""

from hypothesis import strategies as st

from guestforge.rootfs.tree import Device, Directory, File, Symlink, Tree

CONTENTS = st.one_of(st.binary(max_size=50), st.integers(0, 20000).map(lambda n: b"ab\0" * n), st.just(bytes(9000)))
IDS = st.one_of(st.just(0), st.integers(0, 2**32 - 2))
MODES = st.integers(0, 0o7777)
# bytes outside UTF-8 stand in a str as lone surrogates (os.fsdecode)
PRINTABLE = st.characters(exclude_characters="/\x7f", exclude_categories=["Cs", "Cc"])
AWKWARD = st.sampled_from(['"', '""', " ", "<2>", "#", "!x", "-", "'", "\\", "$(x)", "%s", "?offset=1", "\udcff", "é"])
NAMES = st.text(PRINTABLE, min_size=1, max_size=20) | st.tuples(AWKWARD, st.text(PRINTABLE, max_size=5)).map("".join)
PLAIN = NAMES.filter(lambda name: name not in (".", "..", "lost+found"))


def _node(path, kind, content, target, mode, uid, gid, number):
    match kind:
        case "file":
            return File(path, content, mode, uid, gid)
        case "directory":
            return Directory(path, mode, uid, gid)
        case "symlink":
            return Symlink(path, target, uid, gid)
        case _:
            return Device(path, kind, number % 4096, number, mode, uid, gid)


@st.composite
def trees(draw, names=PLAIN):
    """Draw a tree of up to a dozen nodes, some of them in directories."""
    directories = [""]
    nodes = {}
    for name in draw(st.lists(names, max_size=12, unique=True)):
        path = f"{draw(st.sampled_from(directories))}/{name}"
        kind = draw(st.sampled_from(["file", "directory", "symlink", "char", "block"]))
        nodes[path] = _node(
            path, kind, draw(CONTENTS), draw(PLAIN) * draw(st.integers(1, 5)), draw(MODES), draw(IDS), draw(IDS),
            draw(st.integers(0, 65535)),
        )  # fmt: skip
        if kind == "directory":
            directories.append(path)
    return Tree(nodes.values())
