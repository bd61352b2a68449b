"""Release notes: what is told of guests, what has changed since, and whose template it was that failed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from releases import (
    ARCH,
    ARCHIVE,
    CHECKOUTS,
    GUEST,
    VERSION,
    contents,
    facts,
    proven,
    release,
    report,
    unverified,
    verify,
)

from guestforge.core.errors import UserError
from guestforge.manifest import json_text
from guestforge.project.layout import RECIPES
from guestforge.project.template import find_template
from guestforge.release.bundle import make_bundle
from guestforge.release.errors import UnverifiedError
from guestforge.release.facts import told_of_proven, told_of_release
from guestforge.release.names import NOTES, SUMS
from guestforge.release.notes import TEMPLATE, changes, difference, render

CONFIG = "CONFIG_A=y\nCONFIG_B=64\n# CONFIG_C is not set\nCONFIG_D=y\n"
BOOTED = {
    "accelerator": "tcg",
    "phases": {"qemu_start": 0.25, "kernel_up": 1.5, "agent_ready": 2.75, "done": 30.0},
    "measurements": {"guest_memory_used_kib": 20480, "qemu_pss_kib": None},
}
OURS = RECIPES / TEMPLATE


def files(config=CONFIG, **booted):
    """The files of an archive, with a configuration and with figures in the reports."""
    found = contents(config=config.encode())
    for artifact in ("initrd", "image"):
        said = {**report(found, artifact), **BOOTED, **booted}
        found[f"check/{artifact}/report.json"] = json.dumps(said).encode()
    return found


def guest(folder, change=lambda _: None, **more):
    """A guest that may be released; `change` has another manifest of it."""
    found = proven(folder, files=files(**more))
    said = json.loads(found.manifest)
    change(said)
    manifest = json_text(said).encode()
    return replace(found, version=said["release"]["version"], files={**found.files, "manifest.json": manifest})


def packed(folder, *guests):
    assert make_bundle(guests, folder, 0, None, CHECKOUTS)
    return folder


def newer(said):
    said["release"]["version"] = "2.0.0"
    said["versions"]["kernel"] = "6.12.200"
    said["steps"]["package busybox"]["inputs"]["version"] = "2"
    said["steps"]["package tar"] = {
        "key": "0",
        "inputs": {**said["steps"]["package busybox"]["inputs"], "package": "tar"},
    }
    said["release"]["agent"]["modules"][0]["version"] = "v2.1.0"
    del said["release"]["agent"]["modules"][1]


@pytest.fixture
def both(tmp_path):
    """What is told of an earlier release, and of a newer one."""
    before = told_of_release(packed(tmp_path / "before", guest(tmp_path / "one")))
    faster = {**BOOTED["phases"], "agent_ready": 2.0}
    config = CONFIG.replace("64", "128").replace("CONFIG_D=y", "CONFIG_E=m")
    after = told_of_proven(guest(tmp_path / "two", newer, config=config, phases=faster), 5 * 1024 * 1024)
    return before, (after,)


def test_an_archive_tells_what_its_files_told(tmp_path):
    one = guest(tmp_path / "one")
    place = packed(tmp_path / "release", one)
    size = (place / ARCHIVE).stat().st_size
    assert told_of_release(place) == (told_of_proven(one, size),)


def test_what_has_changed(both):
    found = changes(*both)
    assert (found.version, found.came, found.went) == (VERSION, (), ())
    (change,) = found.changes
    assert change.kernel == ("6.12.117", "6.12.200")
    assert change.options.came == {"CONFIG_E": "m"}
    assert change.options.went == {"CONFIG_D": "y"}
    assert change.options.changed == {"CONFIG_B": ("64", "128")}
    assert change.packages.came == {"tar": "2"}
    assert change.packages.changed == {"busybox": ("1:1.35.0-4+b5", "2")}
    assert change.modules.went == {"flat": ""}
    assert change.modules.changed == {"example.org/Some/module/v2": ("v2.0.1", "v2.1.0")}
    assert change.boots.changed == {"initrd": (2.75, 2.0), "image": (2.75, 2.0)}
    assert change.sizes.changed["archive"][1] == 5 * 1024 * 1024


def test_guests_that_came_and_went(both):
    before, after = both
    other = (replace(after[0], arch="s390x"),)
    found = changes(before, other)
    assert (found.came, found.went, found.changes) == (("minimal s390x",), (f"{GUEST} {ARCH}",), ())
    text = render(OURS, other, found).decode()
    assert "minimal s390x is new." in text
    assert "minimal x86_64 is no longer there." in text


@given(*[st.dictionaries(st.text("abc", max_size=2), st.integers(0, 2))] * 2)
def test_a_difference_leads_from_one_to_the_other(before, after):
    found = difference(before, after)
    made = {name: value for name, value in before.items() if name not in found.went}
    made |= found.came
    for name, (one, other) in found.changed.items():
        assert made[name] == one != other
        made[name] = other
    assert made == after
    assert bool(found) == (before != after)


def test_our_notes(both):
    before, after = both
    text = render(OURS, after, changes(before, after)).decode()
    for line in (
        "# Guests 2.0.0",
        "| minimal | x86_64 | initrd | tcg | 1.50 s | 2.00 s | 20.0 MiB | unknown |",
        f"## Since {VERSION}",
        "- kernel: 6.12.117 to 6.12.200",
        "- option CONFIG_E came: m",
        "- option CONFIG_D went, which was y",
        "- option CONFIG_B: 64 to 128",
        "- package tar came: 2",
        "- Go module example.org/Some/module/v2: v2.0.1 to v2.1.0",
        "- agent ready from the image: 2.75 s to 2.00 s",
    ):
        assert line in text.splitlines(), text
    assert "Nothing has changed" not in text
    assert "Since" not in render(OURS, after, None).decode()
    assert "Nothing has changed." in render(OURS, before, changes(before, before)).decode()


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a\n\n{{ nothing }}\n", 3, "'nothing' is undefined"),
        ("a\n{% for one in guests %}\n{{ one.colour }}\n{% endfor %}", 3, "colour"),
        ("a\n{{ version\n", 2, "unexpected"),
        ("{% if %}", 1, "Expected an expression"),
        ("\n{{ version | nonsense }}", 2, "nonsense"),
        ("\n{{ 1 // 0 }}", 2, "zero"),
        ("\n\n{{ guests[7].arch }}", 3, "no element 7"),
        ("\n{{ version + 1 }}", 2, "str"),
        ("\n{% include 'elsewhere' %}", 2, "elsewhere"),
    ],
)
def test_a_template_that_is_wrong_is_told_of_with_its_line(tmp_path, both, text, line, said):
    template = tmp_path / "recipes" / TEMPLATE
    template.parent.mkdir()
    template.write_text(text)
    with pytest.raises(UserError) as caught:
        render(template, both[1], None)
    assert caught.value.message.startswith(f"{template}:{line}: ")
    assert said in caught.value.message


def test_a_template_of_the_project_s_own_counts(tmp_path):
    assert find_template(TEMPLATE, (tmp_path, RECIPES)) == OURS
    (tmp_path / TEMPLATE).touch()
    assert find_template(TEMPLATE, (tmp_path, RECIPES)) == tmp_path / TEMPLATE


def test_notes_are_part_of_a_release_and_are_not_verified(tmp_path):
    place = tmp_path / "release"
    seen = []

    def notes(sizes):
        seen.extend(sizes)
        return b"notes\n"

    assert make_bundle([guest(tmp_path / "one")], place, 0, None, CHECKOUTS, notes=notes)
    assert seen == [(place / ARCHIVE).stat().st_size]
    assert (place / NOTES).read_bytes() == b"notes\n"
    assert f"{facts(b'notes' + bytes([10]))['sha256']}  {NOTES}\n" in (place / SUMS).read_text()
    assert f"what {NOTES} tells people" in verify(place).unchecked
    (place / NOTES).write_bytes(b"notes.\n")
    unverified(place, f"{NOTES}: its SHA-256 is not what {SUMS} says")


def test_an_earlier_release_that_does_not_verify_is_refused(tmp_path):
    place = packed(tmp_path / "release", guest(tmp_path / "one"))
    (place / SUMS).write_bytes(b"x")
    with pytest.raises(UnverifiedError):
        told_of_release(place)
    with pytest.raises(UserError):
        told_of_release(Path(tmp_path / "none"))


def test_an_earlier_release_without_figures_is_the_user_s_mistake(tmp_path):
    with pytest.raises(UserError, match="--since"):
        told_of_release(release(tmp_path))
