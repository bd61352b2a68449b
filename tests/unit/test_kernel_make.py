import os
from pathlib import Path

import pytest

from guestforge.arch import ARCHES
from guestforge.core.runtime import HOST
from guestforge.kernel.buildlog import first_error, is_object
from guestforge.kernel.estimate import expected_objects
from guestforge.kernel.make import Make, build_argv, configure_argv, configure_environment

GOLDEN = Path(__file__).parents[1] / "golden" / "kernel"
FAKE = Path(__file__).parents[1] / "fake_kernel"


def rendered(make):
    parts = {
        "configure": configure_argv(make, "allnoconfig"),
        "configure's environment": [f"{k}={v}" for k, v in configure_environment(Path("/request")).items()],
        "build": build_argv(make),
    }
    return "".join(f"[{name}]\n" + "".join(f"{word}\n" for word in words) for name, words in parts.items())


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_arguments_of_make_match_the_golden_file(arch):
    golden = GOLDEN / f"make-{arch.name}.txt"
    text = rendered(Make(arch, Path("/tree"), Path("/build"), 1_794_475_820, HOST))
    if os.environ.get("GUESTFORGE_ACCEPT_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), "GUESTFORGE_ACCEPT_GOLDEN=1 pytest ... accepts the new text"


@pytest.mark.parametrize(
    ("line", "counts"),
    [("  CC      fs/open.o", True), ("  AS      arch/x86/entry/entry.o", True), ("  CC [M]  fs/x.o", True),
     ("  HOSTCC  scripts/x.o", False), ("  AR      fs/built-in.a", False), ("CC fs/open.o", False), ("  CC", False)],
)  # fmt: skip
def test_objects_are_counted_and_nothing_else(line, counts):
    assert is_object(line) is counts


MIXED = """\
  CC      fs/read_write.o
/tree/fs/open.c: In function 'do_open':
  CC      fs/stat.o
/tree/fs/open.c:12:9: warning: unused variable 'x' [-Wunused-variable]
/tree/fs/open.c:14:2: error: 'undeclared' undeclared (first use in this function)
   14 |  return undeclared;
      |         ^~~~~~~~~~
  CC      fs/super.o
/tree/fs/super.c:99:1: error: later
make[3]: *** [/tree/scripts/Makefile.build:229: fs/open.o] Error 1
make[2]: *** Waiting for unfinished jobs....
make[1]: *** [/tree/Makefile:1945: .] Error 2
make: *** [Makefile:224: __sub-make] Error 2
"""


def test_the_first_real_error_is_found_with_file_and_line():
    found = first_error(MIXED, "/tree")
    assert (found.place, found.what) == ("fs/open.c:14:2", "'undeclared' undeclared (first use in this function)")
    assert found.excerpt.splitlines()[-1].strip() == "|         ^~~~~~~~~~"
    assert not found.disk_full


@pytest.mark.parametrize(
    ("output", "place", "what"),
    [
        ("/tree/a.S:3: Error: no such instruction: `x'\nmake: *** [Makefile:1: a] Error 1", "a.S:3",
         "no such instruction"),
        ("/tree/a.c:1:10: fatal error: x.h: No such file or directory\ncompilation terminated.", "a.c:1:10",
         "x.h: No such"),
        ("gcc: fatal error: Killed signal terminated program cc1", "", "Killed signal"),
        ("x86_64-linux-gnu-ld: fs/open.o: in function `f':\nopen.c:(.text+0x1): undefined reference to `g'", "open.c",
         "`g'"),
        ("/tree/Makefile:77: *** missing separator.  Stop.", "Makefile:77", "missing separator"),
        ("make[1]: *** No rule to make target 'fs/x.o', needed by 'fs/built-in.a'.  Stop.", "",
         "No rule to make target"),
        ("/bin/sh: 1: zstd: not found\nmake[2]: *** [x:1: y] Error 127", "", "zstd: not found"),
        ("ERROR: modpost: \"x\" [y.ko] undefined!", "", "modpost"),
    ],
)  # fmt: skip
def test_other_kinds_of_errors_are_found(output, place, what):
    found = first_error(output, "/tree")
    assert found.place == place
    assert what in found.what


def test_a_full_disk_is_recognised_among_what_follows_from_it():
    output = "/tmp/x.s: Assembler messages:\n/tmp/x.s:9: Error: y\n{standard input}: fatal: No space left on device\n"
    assert first_error(output, "/tree").disk_full


def test_an_end_without_a_known_error_is_no_error():
    assert first_error("  CC      fs/open.o\nmake: *** [x:1: y] Error 1\n", "/tree") is None


LINK = 5  # objects that every link compiles


@pytest.mark.parametrize(("config", "count"), [({}, 3), ({"CONFIG_EXTRA": "y"}, 4), ({"CONFIG_BROKEN": "y"}, 4)])
def test_objects_to_expect_follow_from_the_configuration(config, count):
    assert expected_objects(FAKE, "x86", config) == count + LINK


def test_what_is_linked_apart_counts_once(tmp_path):
    """A directory's lists may have any name; what is in the kernel as well was counted with it."""
    for name, text in {
        "arch/x86/Kbuild": "obj-y += entry/vdso/\n",
        "arch/x86/boot/Makefile": "setup-y += a.o b.o\nsetup-$(CONFIG_MORE) += c.o\ntargets := a.o\n",
        "arch/x86/boot/compressed/Makefile": "vmlinux-objs-y := $(obj)/head.o $(obj)/misc.o\n",
        "arch/x86/entry/vdso/Makefile": "obj-y += vma.o\nvobjs-y := note.o vma.o\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert expected_objects(tmp_path, "x86", {}) == 2 + 2 + 2 + LINK
    assert expected_objects(tmp_path, "x86", {"CONFIG_MORE": "y"}) == 3 + 2 + 2 + LINK
    assert expected_objects(tmp_path, "x86", {"CONFIG_OBJTOOL": "y"}) == 2 + 2 + 2 + LINK + 22


def test_a_whole_kernel_has_some_to_spare(tmp_path):
    (tmp_path / "Kbuild").write_text("obj-y += " + " ".join(f"o{number}.o" for number in range(1000)) + "\n")
    assert expected_objects(tmp_path, "x86", {}) == 1000 + LINK + 20
