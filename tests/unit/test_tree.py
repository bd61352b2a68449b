import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.core.errors import BuildError, UserError
from guestforge.rootfs.tree import Device, Directory, File, Symlink, Tree


def test_order_is_parents_first_whatever_order_they_came_in():
    nodes = [File("/a/b/c", b""), Directory("/a-b"), Symlink("/a/x", "y"), File("/z", b"")]
    paths = ["/", "/a", "/a/b", "/a/b/c", "/a/x", "/a-b", "/z"]
    assert [node.path for node in Tree(nodes)] == paths
    assert Tree(reversed(nodes)) == Tree(nodes)


def test_missing_parents_belong_to_root_and_given_ones_keep_their_mode():
    tree = Tree([File("/a/b/c", b""), Directory("/a", 0o700, 5, 6)])
    assert tree.find("/a") == Directory("/a", 0o700, 5, 6)
    assert tree.find("/a/b") == Directory("/a/b", 0o755, 0, 0)


@pytest.mark.parametrize(
    "path", ["", "a", "/a/", "//a", "/a//b", "/./a", "/a/..", "/../etc/passwd", "/a\0b", "/" + "n" * 256]
)
def test_a_path_that_is_not_plain_is_refused(path):
    with pytest.raises(UserError):
        Tree([File(path, b"")])


@pytest.mark.parametrize(
    "node",
    [
        File("/a", b"", mode=0o10000),
        File("/a", b"", uid=-1),
        File("/a", b"", gid=2**32 - 1),
        Device("/a", "char", 4096, 0),
        Device("/a", "block", 0, 65536),
        Symlink("/a", ""),
        Symlink("/a", "b\0c"),
        Symlink("/a", "x" * 4096),
        File("/", b""),
    ],
)
def test_values_that_linux_has_no_room_for_are_refused(node):
    with pytest.raises(UserError):
        Tree([node])


def test_two_different_nodes_of_one_path_are_refused_and_twice_the_same_is_one():
    assert len(Tree([File("/a", b"x"), File("/a", b"x")]).nodes) == 2
    with pytest.raises(UserError, match="'/a' is given twice"):
        Tree([File("/a", b"x"), File("/a", b"y")])


@pytest.mark.parametrize("parent", [File("/a", b""), Symlink("/a", "/etc"), Device("/a", "char", 1, 3)])
def test_nothing_lies_below_a_non_directory(parent):
    with pytest.raises(UserError, match="'/a' is not a directory"):
        Tree([parent, File("/a/b/c", b"")])


NODES = [
    File("/a", b"x"), File("/a", b"y"), File("/b", b"x"), File("/a", b"x", 0o600), File("/a", b"x", uid=1),
    File("/a", b"x", gid=1), Directory("/a"), Symlink("/a", "x"), Symlink("/a", "y"), Device("/a", "char", 1, 2),
    Device("/a", "block", 1, 2), Device("/a", "char", 2, 1),
]  # fmt: skip


def test_the_digest_sees_every_difference():
    assert len({Tree([node]).digest() for node in NODES}) == len(NODES)


def test_the_digest_is_of_the_content_and_not_of_where_it_lies(tmp_path):
    (tmp_path / "one").write_bytes(b"x")
    (tmp_path / "two").write_bytes(b"x")
    digests = {Tree([File("/a", source)]).digest() for source in (b"x", tmp_path / "one", tmp_path / "two")}
    assert len(digests) == 1


def test_a_source_that_is_no_file_is_named(tmp_path):
    with pytest.raises(BuildError, match="gone"):
        Tree([File("/a", tmp_path / "gone")]).digest()
    with pytest.raises(BuildError, match="not a regular file"):
        Tree([File("/a", tmp_path)]).digest()


@given(st.lists(st.text(), max_size=3).map("/".join))
def test_any_text_is_a_good_path_or_a_user_error(text):
    try:
        tree = Tree([File(text, b"")])
    except UserError:
        return
    assert tree.find(text) == File(text, b"")
