import pytest

from guestforge.arch import ARCHES
from guestforge.core.errors import UserError
from guestforge.kernel.fragment import Request
from guestforge.kernel.packing import PLACE, with_packing

FUSE = Request("CONFIG_FUSE", "y", "common/fuse.conf", 3)
ZSTD = Request("CONFIG_KERNEL_ZSTD", "y", "x86_64/base.conf", 7)
NAMES = ("lz4", "zstd", "gzip", "xz", "none")


def added(arch, compression, *asked):
    return [(each.option, each.value) for each in with_packing((FUSE, *asked), ARCHES[arch], compression)[1:]]


@pytest.mark.parametrize(
    ("arch", "compression", "options"),
    [
        ("x86_64", None, ["CONFIG_KERNEL_LZ4"]),
        ("x86_64", "zstd", ["CONFIG_KERNEL_ZSTD"]),
        ("x86_64", "none", []),
        ("s390x", None, ["CONFIG_KERNEL_LZ4"]),
        ("s390x", "none", ["CONFIG_KERNEL_UNCOMPRESSED"]),
        ("aarch64", None, []),
        ("aarch64", "zstd", []),  # one recipe is for all architectures, and there the file is as it is linked
        ("ppc64le", "lz4", []),
    ],
)
def test_a_recipe_asks_for_the_architectures_option(arch, compression, options):
    assert added(arch, compression) == [(option, "y") for option in options]


def test_a_fragment_that_has_chosen_is_left_alone():
    assert added("x86_64", None, ZSTD) == [("CONFIG_KERNEL_ZSTD", "y")]
    off = Request("CONFIG_KERNEL_ZSTD", "n", "x86_64/base.conf", 7)
    assert added("x86_64", None, off)[1:] == [("CONFIG_KERNEL_LZ4", "y")]


def test_a_fragment_and_a_recipe_that_both_choose_are_told_where():
    with pytest.raises(UserError, match=r'compression = "lz4", and x86_64/base.conf:7 asks for CONFIG_KERNEL_ZSTD'):
        added("x86_64", "lz4", ZSTD)


def test_what_was_asked_by_the_recipe_names_the_key_and_no_line():
    assert with_packing((), ARCHES["s390x"], "zstd")[0].place == PLACE


def test_an_architectures_unknown_compression_lists_what_it_has():
    with pytest.raises(UserError, match="s390x has no lzma") as caught:
        added("s390x", "lzma")
    assert "lz4, zstd" in caught.value.hint


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_each_architecture_has_a_file_for_every_name(arch):
    files = {name: arch.kernel_file(name) for name in NAMES}
    assert arch.kernel_file(None) == files["lz4"]
    assert all(files.values())
    if arch.kernel_packings:
        assert {packing.name for packing in arch.kernel_packings} == set(NAMES)


def test_not_packed_x86_64_boots_the_elf_file():
    assert ARCHES["x86_64"].kernel_file("none") != ARCHES["x86_64"].kernel_file("lz4")
