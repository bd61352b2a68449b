import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.arch import ARCHES
from guestforge.core.errors import UserError
from guestforge.project import bounds, load
from guestforge.project.models import Guest, Kernel, Rootfs

GUEST = 'description = "d"\nkernel = "default"\nrootfs = "minimal"\n'


def problem(model, text):
    with pytest.raises(UserError) as caught:
        load.parse(model, text, "x.toml")
    return caught.value


@pytest.mark.parametrize(
    ("model", "read"), [(Guest, load.load_guest), (Kernel, load.load_kernel), (Rootfs, load.load_rootfs)]
)
def test_every_recipe_of_the_repository_loads(model, read):
    names = load.names(model)
    assert names
    for name in names:
        read(name)


def test_guests_name_kernels_and_root_file_systems_that_are_there():
    for name in load.names(Guest):
        guest = load.load_guest(name)
        load.load_kernel(guest.kernel)
        load.load_rootfs(guest.rootfs)


def test_unknown_key_names_file_line_and_nearest():
    error = problem(Guest, GUEST + "[boot]\nmemory_mb = 5\n")
    assert "x.toml:5: unknown key boot.memory_mb" in error.message
    assert error.hint == "did you mean memory_mib?"


def test_unknown_key_far_from_any_lists_the_keys():
    assert "kernel" in problem(Guest, GUEST + "zzzzzz = 1\n").hint


def test_wrong_type_names_file_line_and_key():
    assert (
        "x.toml:3: rootfs: Input should be a valid string"
        in problem(Guest, 'description = "d"\nkernel = "k"\nrootfs = 5\n').message
    )


def test_a_number_in_a_string_is_no_number():
    assert "x.toml:5: boot.cpus" in problem(Guest, GUEST + '[boot]\ncpus = "2"\n').message


def test_a_disk_too_small_for_a_journal_is_refused():
    assert "image.size_mib" in problem(Guest, GUEST + "[image]\nsize_mib = 9\n").message
    assert load.parse(Guest, GUEST + "[image]\nsize_mib = 10\n", "x.toml").image.size_mib == 10


def test_value_out_of_bounds():
    assert "boot.memory_mib" in problem(Guest, GUEST + "[boot]\nmemory_mib = 1\n").message


def test_a_date_is_not_a_string():
    assert "x.toml:1: description" in problem(Guest, GUEST.replace('"d"', "2020-01-01")).message


def test_wrong_member_of_an_array_names_the_arrays_line():
    text = 'fragments = ["a", "../b"]\n[source]\nkind = "debian"\npackage = "linux-source-6.12"\nsuite = "trixie"\n'
    assert "x.toml:1: fragments.1" in problem(Kernel, text).message


def test_missing_key():
    assert "the key kernel is missing" in problem(Guest, 'description = "d"\nrootfs = "minimal"\n').message


def test_every_problem_is_told_at_once():
    assert len(problem(Guest, GUEST + "a = 1\nb = 2\n").message.splitlines()) == 2


def test_malformed_toml_has_its_line():
    assert "line 2" in problem(Guest, 'a = "b"\nc = = 1\n').message


def test_missing_recipe_names_the_nearest(tmp_path):
    (tmp_path / "guests").mkdir()
    (tmp_path / "guests" / "minimal.toml").write_text(GUEST)
    with pytest.raises(UserError) as caught:
        load.load_guest("minimla", [tmp_path])
    assert f"there is no {tmp_path}/guests/minimla.toml" in caught.value.message
    assert caught.value.hint == "did you mean minimal?"


def test_recipe_that_is_not_text(tmp_path):
    (tmp_path / "guests").mkdir()
    (tmp_path / "guests" / "bad.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(UserError, match="byte 5 is not UTF-8"):
        load.load_guest("bad", [tmp_path])


def test_a_recipe_may_have_a_mebibyte_and_no_more(tmp_path):
    (tmp_path / "guests").mkdir()
    path = tmp_path / "guests" / "long.toml"
    text = 'description = "x"\nkernel = "k"\nrootfs = "r"\n'
    path.write_text(text + "#" * (load.MAX_BYTES - len(text)))
    assert load.load_guest("long", [tmp_path]).kernel == "k"
    path.write_text(path.read_text() + "#")
    with pytest.raises(UserError, match=r"long\.toml: larger than 1048576 bytes; this is no recipe"):
        load.load_guest("long", [tmp_path])


@given(st.text())
def test_any_text_is_a_recipe_or_a_users_error(text):
    with contextlib.suppress(UserError):
        load.parse(Rootfs, text, "x.toml")


@given(st.recursive(st.integers() | st.text() | st.booleans(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)))
def test_any_value_of_any_type_is_a_recipe_or_a_users_error(value):
    with contextlib.suppress(UserError):
        load.parse(Kernel, f"fragments = {json.dumps(value, ensure_ascii=True).replace(': ', ' = ')}", "x.toml")


@given(st.text(), st.lists(st.text() | st.integers()))
def test_looking_for_a_line_never_fails(text, location):
    load.line_of(text, tuple(location))


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "line", ["0" * 100_000, "[" * 100_000, "[" + " " * 100_000, "a." * 50_000, " " * 100_000, "a " * 50_000]
)
def test_a_long_line_is_looked_through_once(line):
    assert load.line_of(f"{line}\nkey = 1\n", ("key",)) == 2


def recipe(directory, boot):
    (directory / "guests").mkdir(exist_ok=True)
    (directory / "guests" / "mine.toml").write_text(GUEST + "[boot]\n" + boot)
    return directory


# MiB and processors, and what is wrong with them on which architecture
ENDS = [
    ("memory_mib = 56", {"x86_64": "at least 64", "ppc64le": "at least 256"}),
    ("memory_mib = 63", {"x86_64": "63 MiB are too little memory for a guest of x86_64", "ppc64le": "at least 256"}),
    ("memory_mib = 64", {"ppc64le": "at least 256"}),
    ("memory_mib = 256", {}),
    ("memory_mib = 300", {"ppc64le": "a multiple of 256 MiB"}),
    ("memory_mib = 524288", {}),
    ("cpus = 248", {}),
    ("cpus = 249", {"s390x": "at most 248"}),
    ("cpus = 255", {"s390x": "at most 248"}),
]


@pytest.mark.parametrize(("boot", "wrong"), ENDS)
@pytest.mark.parametrize("arch", ARCHES)
def test_the_ends_of_what_a_machine_can_be_are_each_architectures(tmp_path, boot, wrong, arch):
    recipes = recipe(tmp_path, boot + "\n")
    if arch not in wrong:
        assert bounds.load_guest_for(ARCHES[arch], "mine", [recipes])
        return
    with pytest.raises(UserError) as caught:
        bounds.load_guest_for(ARCHES[arch], "mine", [recipes])
    assert wrong[arch] in caught.value.message
    assert caught.value.message.startswith(f"{recipes}/guests/mine.toml:5: boot.{boot.split()[0]}: ")


@pytest.mark.parametrize("boot", ["memory_mib = 55", "memory_mib = 524289", "cpus = 0", "cpus = 256"])
def test_beyond_all_ends_no_architecture_matters(tmp_path, boot):
    with pytest.raises(UserError, match=rf"mine\.toml:5: boot\.{boot.split()[0]}: Input should be"):
        load.load_guest("mine", [recipe(tmp_path, boot + "\n")])


@pytest.mark.parametrize(
    ("config", "most"), [({"CONFIG_SMP": "y", "CONFIG_NR_CPUS": "64"}, 64), ({}, 1), ({"CONFIG_SMP": "y"}, 255)]
)
def test_processors_that_the_kernel_would_not_use_are_refused(tmp_path, config, most):
    guest = bounds.load_guest_for(ARCHES["x86_64"], "mine", [recipe(tmp_path, f"cpus = {most}\n")])
    bounds.require_processors(guest, "mine", config, [tmp_path])
    if most < 255:
        guest = bounds.load_guest_for(ARCHES["x86_64"], "mine", [recipe(tmp_path, f"cpus = {most + 1}\n")])
        with pytest.raises(UserError, match=rf"mine\.toml:5: boot\.cpus: {most + 1} are more than the {most} that its"):
            bounds.require_processors(guest, "mine", config, [tmp_path])
