import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.arch import ARCHES
from guestforge.core.errors import BuildError, UserError
from guestforge.kernel.dotconfig import format_dotconfig, parse_dotconfig, read_dotconfig, same_value
from guestforge.kernel.fragment import compose, composed_text, parse_fragment
from guestforge.kernel.kconfig import parse as parse_kconfig
from guestforge.project.layout import FRAGMENTS
from guestforge.project.load import load_kernel

names = st.text(string.ascii_uppercase + string.digits + "_", min_size=1, max_size=40).map("CONFIG_{}".format)
words = st.text(string.printable.translate(str.maketrans("", "", '"\\\n\r\x0b\x0c')), max_size=40)
values = (
    st.sampled_from(["y", "m", "n"])
    | st.integers(-(10**9), 10**9).map(str)
    | st.integers(0, 2**64 - 1).map(hex)
    | words.map('"{}"'.format)
)
configs = st.dictionaries(names, values, max_size=20)


@given(configs)
def test_a_config_survives_a_round_trip(config):
    assert parse_dotconfig(format_dotconfig(config), "x") == config


@given(configs, st.lists(words.filter(lambda word: "CONFIG_" not in word).map("# {}".format), max_size=5))
def test_a_fragment_yields_each_option_with_its_line(config, comments):
    text = "\n".join(comments) + "\n\n" + format_dotconfig(config)
    requests = parse_fragment(text, "f.conf")
    assert {request.option: request.value for request in requests} == config
    first = len(comments or [""]) + 2
    assert [request.line for request in requests] == list(range(first, first + len(config)))


@given(st.text(max_size=200))
def test_any_text_is_a_fragment_or_an_error_with_a_line(text):
    try:
        parse_fragment(text, "f.conf")
    except UserError as e:
        assert e.message.startswith("f.conf:")


@pytest.mark.parametrize(
    "line",
    [
        "CONFIG_X", "CONFIG_X=", "CONFIG_X = y", "CONFIG_X=yes", 'CONFIG_X="open', "X=y", " CONFIG_X=y", "CONFIG_X=y ",
        "# CONFIG_X is not  set", "#CONFIG_X is not set", "# config_X is not set", "CONFIG_X=y # why", "CONFIG_X=0x",
        'CONFIG_X="a" "b"', "CONFIG_X=y\r", "CONFIG_" + "X" * 200 + "=y",
    ],
)  # fmt: skip
def test_a_malformed_line_is_named(line):
    with pytest.raises(UserError, match=r"^dir/f\.conf:2: not ") as caught:
        parse_fragment(f"# fine\n{line}\nCONFIG_Y=y\n", "dir/f.conf")
    assert line[:50].strip() in caught.value.excerpt
    assert caught.value.hint


@pytest.fixture
def root(tmp_path):
    def write(**files):
        for name, text in files.items():
            path = tmp_path / "configs" / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".conf").write_text(text)
        return tmp_path / "configs"

    return write


def test_a_name_is_found_in_either_folder_or_in_both(root):
    configs = root(common__both="CONFIG_A=y\n", here__both="CONFIG_B=y\n", here__one="# CONFIG_C is not set\n")
    requests = compose(["both", "one", "both"], "here", [configs])
    assert [(r.option, r.value, r.place) for r in requests] == [
        ("CONFIG_A", "y", "configs/common/both.conf:1"),
        ("CONFIG_B", "y", "configs/here/both.conf:1"),
        ("CONFIG_C", "n", "configs/here/one.conf:1"),
    ]
    assert composed_text(requests) == "# CONFIG_C is not set\nCONFIG_A=y\nCONFIG_B=y\n"


def test_an_unknown_fragment_gets_the_nearest_name(root):
    configs = root(common__ext4="", common__other="", here__base="")
    with pytest.raises(UserError, match="no fragment 'ext'") as caught:
        compose(["ext"], "here", [configs])
    assert caught.value.hint == "did you mean ext4?"


def test_a_fragment_of_another_architecture_is_unknown(root):
    configs = root(elsewhere__base="CONFIG_A=y\n", common__x="")
    with pytest.raises(UserError, match="no fragment 'base'"):
        compose(["base"], "here", [configs])


@pytest.mark.parametrize(
    ("one", "two", "how"),
    [("CONFIG_A=y", "# CONFIG_A is not set", "with two values"), ("CONFIG_A=16", "CONFIG_A=0x10", "twice")],
)
def test_two_fragments_that_ask_for_one_option_are_both_named(root, one, two, how):
    configs = root(common__one=f"\n{one}\n", common__two=f"{two}\n")
    with pytest.raises(UserError) as caught:
        compose(["one", "two"], "here", [configs])
    assert (
        caught.value.message == f"CONFIG_A is asked for {how}: configs/common/one.conf:2 and configs/common/two.conf:1"
    )
    assert one in caught.value.excerpt and two in caught.value.excerpt


def test_the_same_option_twice_in_one_fragment_is_an_error(root):
    with pytest.raises(UserError, match=r"one\.conf:1 and .*one\.conf:3"):
        compose(["one"], "here", [root(common__one="CONFIG_A=y\n\nCONFIG_A=y\n")])


@pytest.mark.parametrize("data", [b"CONFIG_A=y\n\xff\n", b"#" * 300_000])
def test_a_file_that_is_no_text_or_huge_is_an_error(tmp_path, data):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "x.conf").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.conf: "):
        compose(["x"], "here", [tmp_path])


@pytest.mark.parametrize("arch", ARCHES)
def test_every_fragment_of_the_repository_parses_and_none_disagree(arch):
    there = {path.stem for folder in ("common", arch) for path in (FRAGMENTS / folder).glob("*.conf")}
    assert set(load_kernel("default").fragments) <= there
    assert len(compose(sorted(there), arch)) > 100


@pytest.mark.parametrize("arch", ARCHES)
def test_no_fragment_lets_containers_reach_the_agents_ports(arch):
    """VSOCKETS_LOOPBACK is `default y`, and off where no fragment asks. The agent serves nobody but the host."""
    there = {path.stem for folder in ("common", arch) for path in (FRAGMENTS / folder).glob("*.conf")}
    asked = {request.option for request in compose(sorted(there), arch) if request.value != "n"}
    assert {name for name in asked if "VSOCK" in name} == {"CONFIG_VSOCKETS", "CONFIG_VIRTIO_VSOCKETS"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("y", "y", True), ("y", "m", False), ("16", "0x10", True), ("0x0A", "0xa", True), ('"16"', "16", False),
     ("n", "0", False), ("010", "8", False)],
)  # fmt: skip
def test_values_are_compared_as_numbers_where_they_are_numbers(one, other, same):
    assert same_value(one, other) is same


def test_a_config_that_is_none_or_too_large_is_an_error(tmp_path):
    path = tmp_path / ".config"
    path.write_text("CONFIG_A=y\nnonsense\n")
    with pytest.raises(BuildError, match=r"\.config:2: not "):
        read_dotconfig(path)
    path.write_text("#" * 5_000_000)
    with pytest.raises(BuildError, match="larger than"):
        read_dotconfig(path)


KCONFIG = """\
menu "Things"
\tdepends on NET && \\
\t\t!S390

if BLOCK
config OUTER
\tbool "x"
\tdepends on A
\thelp
\t  words
config NEXT
\tbool
endif

menuconfig LAST
\tdepends on B
endmenu
config AFTER
\tbool "y"
"""


def test_conditions_of_an_option_are_those_around_it_and_its_own():
    found = dict(parse_kconfig(KCONFIG, "net/Kconfig", ["OUTER", "NEXT", "LAST", "AFTER"]))
    assert {name: (row.line, row.conditions) for name, row in found.items()} == {
        "OUTER": (6, ("NET && !S390", "BLOCK", "A")),
        "NEXT": (11, ("NET && !S390", "BLOCK")),
        "LAST": (15, ("NET && !S390", "B")),
        "AFTER": (18, ()),
    }
    assert {row.file for row in found.values()} == {"net/Kconfig"}


@given(st.lists(st.sampled_from([*KCONFIG.splitlines(), "endif", "endmenu", "\\", "\t", "if"]), max_size=30))
def test_any_lines_are_a_kconfig_file(lines):
    for _, definition in parse_kconfig("\n".join(lines), "f", ["OUTER", "NEXT"]):
        assert 1 <= definition.line <= len(lines)
