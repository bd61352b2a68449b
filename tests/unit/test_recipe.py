import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.errors import UserError
from guestforge.recipe import load
from guestforge.recipe.models import Guest, Kernel, Rootfs

GUEST = 'description = "d"\nkernel = "default"\nrootfs = "minimal"\n'


def problem(model, text):
    with pytest.raises(UserError) as caught:
        load.parse(model, text, "x.toml")
    return caught.value


@pytest.mark.parametrize(
    ("folder", "read"), [("guests", load.load_guest), ("kernels", load.load_kernel), ("rootfs", load.load_rootfs)]
)
def test_every_recipe_of_the_repository_loads(folder, read):
    names = load.names(load.RECIPES / folder)
    assert names
    for name in names:
        read(name)


def test_guests_name_kernels_and_root_file_systems_that_are_there():
    for name in load.names(load.RECIPES / "guests"):
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
        load.load_guest("minimla", tmp_path)
    assert "minimla.toml: No such file" in caught.value.message
    assert caught.value.hint == "did you mean minimal?"


def test_recipe_that_is_not_text(tmp_path):
    (tmp_path / "guests").mkdir()
    (tmp_path / "guests" / "bad.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(UserError, match="byte 5 is not UTF-8"):
        load.load_guest("bad", tmp_path)


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
