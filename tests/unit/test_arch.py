import pytest

from guestforge.arch import ARCHES, lookup, lookup_list
from guestforge.core.errors import UserError


def test_names_are_the_rows_own():
    assert all(ARCHES[name].name == name for name in ARCHES)


@pytest.mark.parametrize(
    ("typed", "name"),
    [("amd64", "x86_64"), ("arm64", "aarch64"), ("ppc64el", "ppc64le"), ("S390X", "s390x"), (" x86_64 ", "x86_64")],
)
def test_aliases_that_people_type(typed, name):
    assert lookup(typed).name == name


def test_no_alias_means_two_architectures():
    aliases = [name for arch in ARCHES.values() for name in (arch.name, *arch.aliases)]
    assert len(aliases) == len(set(aliases))


def test_unknown_name_gets_the_list_and_the_nearest():
    with pytest.raises(UserError, match="x86_64, aarch64, ppc64le, s390x, and all") as caught:
        lookup("x86-46")
    assert caught.value.hint == "did you mean x86_64?"
    assert caught.value.exit_code == 1


def test_lists_keep_order_and_drop_repeats():
    assert [arch.name for arch in lookup_list("s390x,amd64,x86_64")] == ["s390x", "x86_64"]
    assert len(lookup_list("all")) == len(ARCHES)


@pytest.mark.parametrize("empty", ["", " ", ",", " , "])
def test_an_empty_list_is_an_error(empty):
    with pytest.raises(UserError, match="no architecture given"):
        lookup_list(empty)
