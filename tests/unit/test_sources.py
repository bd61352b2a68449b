import json
import stat
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.core.errors import BuildError, UserError
from guestforge.core.graph import Evaluation
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.project.lock import Locked, lock_of
from guestforge.project.models import DebianSource
from guestforge.sources import aptconf, hostapt, resolution
from guestforge.sources import unpack as unpack_module
from guestforge.sources.aptplace import Place
from guestforge.sources.aptroot import AptRoot, parse_record
from guestforge.sources.hostapt import Mirror, debian_mirror, parse_deb822, parse_list
from guestforge.sources.kernel_tree import kernel_tree
from guestforge.sources.linux import source_step
from guestforge.sources.packages import package_step
from guestforge.sources.resolution import Wanted
from guestforge.sources.unpack import unpack
from guestforge.testing.debian_archive import Archive, Key, link, tarball

SOURCE = DebianSource(kind="debian", package="linux-source-6.12", suite="trixie", version=None)
TREE = tarball(
    ("linux-source-6.12/Makefile", b"all:\n"),
    ("linux-source-6.12/scripts/run.sh", b"#!/bin/sh\n"),
    link("linux-source-6.12/link", "Makefile"),
)

# the host's sources


@pytest.fixture
def etc(tmp_path):
    (tmp_path / "sources.list.d").mkdir()

    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path

    return write


DEB822 = """\
# a comment
Types: deb deb-src
URIs: https://mirror.test/debian
Suites: bookworm bookworm-updates
# another
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
Trusted: yes
Check-Valid-Until: no
"""
OTHERS = """\
Types: deb
URIs: https://packages.test/apt
Suites: cloud-sdk-bookworm
Components: main

Types: deb
URIs: https://security.test/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: https://off.test/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: https://source.test/debian
Suites: bookworm
Components: main

"""


def test_the_first_source_of_debian_main_is_the_mirror_without_what_weakens_it(etc):
    found = debian_mirror(etc=etc("sources.list.d/debian.sources", OTHERS + DEB822))
    assert found.uri == "https://mirror.test/debian"
    assert found.options == {
        "Signed-By": "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc",
        "Check-Valid-Until": "no",
    }


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("deb https://mirror.test/debian bookworm main", {}),
        ("deb [arch=amd64 signed-by=/k.gpg,/l.gpg trusted=yes] https://mirror.test/debian sid main contrib  # why",
         {"Signed-By": "/k.gpg /l.gpg"}),
    ],
)  # fmt: skip
def test_the_one_line_format_is_read_too(etc, line, options):
    text = f"# deb https://no.test/debian sid main\ndeb cdrom:[Debian]/ bookworm main\n{line}\n"
    assert debian_mirror(etc=etc("sources.list", text)) == Mirror("https://mirror.test/debian", options)


@pytest.mark.parametrize("text", ["", OTHERS, "deb https://u.test/ubuntu noble main\n"])
def test_a_host_without_debian_gets_the_remedy(etc, text):
    with pytest.raises(UserError, match="name no Debian mirror") as caught:
        debian_mirror(etc=etc("sources.list.d/x.sources", text))
    assert "--mirror" in caught.value.hint


def test_the_users_mirror_takes_the_hosts_keys(etc):
    found = debian_mirror("http://mine.test/debian", etc=etc("sources.list.d/debian.sources", DEB822))
    assert found.uri == "http://mine.test/debian"
    assert "Signed-By" in found.options


def test_without_debian_sources_the_users_mirror_takes_debians_keyring(etc, tmp_path):
    here = etc("sources.list", "")
    with pytest.raises(UserError, match="no keys of Debian") as caught:
        debian_mirror("http://mine.test/debian", etc=here, keyring=tmp_path / "none")
    assert "debian-archive-keyring" in caught.value.hint
    (tmp_path / "keys").touch()
    assert debian_mirror("http://mine.test/debian", here, tmp_path / "keys").options == {
        "Signed-By": str(tmp_path / "keys")
    }


@pytest.mark.parametrize("uri", ["mine.test", "http://a b", "http://a\nTrusted: yes", ""])
def test_a_mirror_that_is_no_address_is_refused(etc, uri):
    with pytest.raises(UserError, match="not the address of a mirror"):
        debian_mirror(uri, etc=etc("sources.list.d/debian.sources", DEB822))


@given(st.text(max_size=300))
def test_any_text_can_be_a_source_list(text):
    for stanza in (*parse_deb822(text), *parse_list(text)):
        assert all(name == name.lower() for name in stanza)


# apt, on an archive of our own


def fetch_tree(store, source):
    return kernel_tree(Evaluation(store).entry(source_step(resolution.Archive(store), source)))


def fetch_package(store, *wanted, refresh=False):
    return Evaluation(store).entry(package_step(resolution.Archive(store, refresh=refresh), *wanted))


def resolve(store, wanted, *, refresh=False):
    return resolution.resolve(resolution.Archive(store, refresh=refresh), wanted, HOST)


@pytest.fixture(scope="module")
def keys(open_place):
    pair = [Key(open_place / name) for name in ("good", "other")]
    yield pair
    for key in pair:
        key.close()


@pytest.fixture
def archive(tmp_path, open_place, keys):
    made = Archive(open_place / tmp_path.name, "trixie")
    made.add(tmp_path, "linux-source-6.12", "6.12.1-1", "all", {"usr/src/linux-source-6.12.tar.xz": TREE})
    made.add(tmp_path, "hello", "1:2.0", "arm64", {"usr/bin/hello": b"x"})
    made.publish(keys[0])
    return made


@pytest.fixture
def store(tmp_path, archive, keys, monkeypatch):
    mirror = Mirror(archive.uri, {"Signed-By": str(keys[0].keyring)})
    monkeypatch.setattr(resolution, "debian_mirror", lambda _: mirror)
    return Store(tmp_path / "cache")


def test_a_kernel_tree_is_fetched_verified_and_unpacked_once_read_only(store, archive):
    found = fetch_tree(store, SOURCE)
    assert (found.version, found.date) == ("6.12.1-1", 1_700_000_000)
    assert (found.path / "Makefile").read_text() == "all:\n"
    assert (found.path / "link").readlink().name == "Makefile"
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in found.path.rglob("*") if not path.is_symlink()}
    assert all(mode & 0o222 == 0 for mode in modes.values())
    assert modes[found.path / "scripts" / "run.sh"] & 0o111
    archive.root.rename(archive.root.with_name("gone"))  # the second needs no network
    again = fetch_tree(store, SOURCE)
    assert again.entry.reused
    assert again.path == found.path


def test_a_package_of_another_architecture_is_fetched(store):
    entry = fetch_package(store, "hello", "trixie", "arm64")
    assert (entry.path / "tree" / "usr" / "bin" / "hello").read_bytes() == b"x"
    assert entry.inputs["version"] == "1:2.0"


def test_a_resolution_holds_until_it_is_refreshed(store, archive, keys, tmp_path):
    assert resolve(store, Wanted("hello", "trixie", "arm64")).version == "1:2.0"
    archive.add(tmp_path, "hello", "1:3.0", "arm64", {"usr/bin/hello": b"new"})
    archive.publish(keys[0])
    assert resolve(store, Wanted("hello", "trixie", "arm64")).version == "1:2.0"
    assert resolve(store, Wanted("hello", "trixie", "arm64"), refresh=True).version == "1:3.0"
    assert resolve(store, Wanted("hello", "trixie", "arm64", "1:2.0")).version == "1:2.0"


def test_a_version_that_left_the_suite_is_an_error_with_the_one_that_is_there(store, archive, keys, tmp_path):
    resolve(store, Wanted("hello", "trixie", "arm64"))
    archive.forget("hello")
    next(archive.root.glob("pool/hello*")).unlink()
    archive.add(tmp_path, "hello", "1:3.0", "arm64", {"usr/bin/hello": b"new"})
    archive.publish(keys[0])
    with pytest.raises(UserError, match=r"hello 1:2\.0 is not in suite trixie for arm64, which has 1:3\.0") as caught:
        fetch_package(store, "hello", "trixie", "arm64")
    assert "--refresh" in caught.value.hint
    assert fetch_package(store, "hello", "trixie", "arm64", refresh=True).inputs["version"] == "1:3.0"


def test_an_unknown_package_gets_the_nearest_name(store):
    with pytest.raises(UserError, match=r"has no package linux-source-6\.11") as caught:
        fetch_tree(store, SOURCE.model_copy(update={"package": "linux-source-6.11"}))
    assert caught.value.hint == "nearest: linux-source-6.12"


def test_a_suite_that_the_mirror_does_not_have(store):
    with pytest.raises(BuildError, match="lists of suite duke") as caught:
        fetch_package(store, "hello", "duke", "arm64")
    assert "`suite` in the recipe" in caught.value.hint


def test_a_release_signed_by_a_key_that_the_host_does_not_trust(store, archive, keys):
    archive.publish(keys[1])
    with pytest.raises(BuildError, match="could not be fetched") as caught:
        fetch_package(store, "hello", "trixie", "arm64")
    assert "NO_PUBKEY" in caught.value.excerpt
    assert "debian-archive-keyring" in caught.value.hint
    assert not list((store.cache / "resolved").glob("*"))


def test_an_unsigned_release_is_refused_whatever_the_host_allows(store, archive, tmp_path, monkeypatch):
    host = tmp_path / "host.conf"
    host.write_text('Acquire::AllowInsecureRepositories "true"; APT::Get::AllowUnauthenticated "true";\n')
    monkeypatch.setattr(aptconf, "HOST_MAIN", host)
    archive.publish(None)
    with pytest.raises(BuildError) as caught:
        fetch_package(store, "hello", "trixie", "arm64")
    assert "signed" in caught.value.excerpt


def test_the_hosts_settings_hold_below_ours(store, tmp_path, monkeypatch):
    host = tmp_path / "host.conf"
    touched = tmp_path / "touched"
    host.write_text(
        f'Acquire::http::Proxy "http://proxy.test:1"; APT::Update::Post-Invoke {{ "touch {touched}"; }};\n'
        'Dir::State::lists "/nonexistent"; APT::Architectures { "i386"; };\n'
    )
    monkeypatch.setattr(aptconf, "HOST_MAIN", host)
    fetch_package(store, "hello", "trixie", "arm64")
    assert not touched.exists()
    wanted = Wanted("hello", "trixie", "arm64")
    with resolution.apt_root(resolution.Archive(store), wanted, HOST) as root:
        dump = HOST.run(["apt-config", "dump"], env={"APT_CONFIG": str(root.directory / "first.conf")}).output
    assert 'Acquire::http::Proxy "http://proxy.test:1"' in dump
    assert "i386" not in dump


def test_a_package_that_was_changed_on_the_mirror_is_refused(store, archive):
    deb = next(archive.root.glob("pool/hello*"))
    data = bytearray(deb.read_bytes())
    data[-1] ^= 1
    deb.write_bytes(data)
    with pytest.raises(BuildError, match=r"hello 1:2\.0 could not be fetched|has SHA-256"):
        fetch_package(store, "hello", "trixie", "arm64")
    assert not list((store.cache / "store").glob("package/*"))


def test_a_package_is_verified_once_more_after_apt(store, monkeypatch):
    monkeypatch.setattr("guestforge.sources.aptroot.digest_file", lambda _: "0" * 64)
    with pytest.raises(BuildError, match="has SHA-256 000"):
        fetch_package(store, "hello", "trixie", "arm64")


def test_progress_of_a_download_ends_at_its_size(tmp_path, archive, keys):
    (tmp_path / "root").mkdir()
    root = AptRoot(
        Place(tmp_path / "root"), "trixie", "amd64", Mirror(archive.uri, {"Signed-By": str(keys[0].keyring)}), HOST
    )
    root.update()
    wanted = root.resolve("linux-source-6.12")
    counts = []
    deb = root.download(wanted, tmp_path, counts.append)
    assert sum(counts) == wanted.size == deb.stat().st_size
    assert all(count > 0 for count in counts)


def test_a_damaged_record_is_asked_for_again(store):
    wanted = Wanted("hello", "trixie", "arm64")
    path = resolution.record_path(store.cache, wanted)
    first = resolve(store, wanted)
    for damaged in ("", "{", "[]", json.dumps({"resolved": {"package": "hello"}, "date": "2020-01-01"})):
        path.write_text(damaged)
        assert resolve(store, wanted) == first


@given(st.text(max_size=400))
def test_any_text_is_a_record_or_none(text):
    parse_record(text, "x")


# unpacking


def package(archive, tmp_path, content):
    return archive.add(tmp_path, "linux-source-9", "1", "all", {"usr/src/linux-source-9.tar.xz": content})


@pytest.mark.parametrize(
    "members",
    [
        [("top/../../escaped", b"x")],
        [link("top/away", "/"), ("top/away/tmp/escaped", b"x")],
        [link("top/up", ".."), ("top/up/../escaped", b"x")],
    ],
)
def test_a_tree_that_leaves_its_directory_is_refused(archive, tmp_path, members):
    deb = package(archive, tmp_path, tarball(("top/fine", b"x"), *members))
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match="could not be unpacked"):
        unpack(deb, tmp_path / "out" / "tree", HOST)
    assert not list(tmp_path.rglob("escaped"))


def test_links_that_lead_out_are_never_written_through(archive, tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").mkdir()
    deb = package(archive, tmp_path, tarball(link("top/l", str(tmp_path / "victim")), ("top/l/escaped", b"x")))
    with pytest.raises(BuildError):
        unpack(deb, tmp_path / "out" / "tree", HOST)
    assert not list((tmp_path / "victim").iterdir())


@pytest.mark.parametrize("content", [b"no archive", TREE[: len(TREE) // 2]])
def test_a_damaged_tree_is_an_error(archive, tmp_path, content):
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match="could not be unpacked"):
        unpack(package(archive, tmp_path, content), tmp_path / "out" / "tree", HOST)


def test_a_package_without_a_tree_is_an_error(archive, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match="holds no usr/src/linux-source"):
        unpack(next(archive.root.glob("pool/hello*")), tmp_path / "out" / "tree", HOST)


def test_a_file_that_is_no_package_is_an_error(tmp_path):
    (tmp_path / "x.deb").write_text("no package")
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError):
        unpack(tmp_path / "x.deb", tmp_path / "out" / "tree", HOST)


def test_a_huge_tarball_is_refused(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(unpack_module, "MAX_TARBALL", 10)
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match="this is no kernel tree"):
        unpack(package(archive, tmp_path, TREE), tmp_path / "out" / "tree", HOST)


def test_the_suites_that_we_know_include_those_of_the_recipes():
    assert {"bookworm", "trixie"} <= hostapt.SUITES


# a project's lock file


def locked(**changes):
    """What a lock file has of the archive's `hello`."""
    facts = {"suite": "trixie", "package": "hello", "architecture": "arm64", "version": "1:2.0", "sha256": "0" * 64}
    return lock_of([Locked(**{**facts, "size": 1, **changes})])


def as_locked(archive, resolved):
    return replace(archive, lock=lock_of([Locked(suite="trixie", **asdict(resolved))]))


def test_a_locked_version_is_taken_though_the_mirror_has_a_newer_one(store, archive, keys, tmp_path):
    here = resolution.Archive(store)
    old = resolution.ask(here, Wanted("hello", "trixie", "arm64"), HOST)
    archive.add(tmp_path, "hello", "1:3.0", "arm64", {"usr/bin/hello": b"new"})
    archive.publish(keys[0])
    assert resolution.ask(here, Wanted("hello", "trixie", "arm64"), HOST).version == "1:3.0"
    entry = Evaluation(store).entry(package_step(as_locked(here, old), "hello", "trixie", "arm64"))
    assert (entry.path / "tree/usr/bin/hello").read_bytes() == b"x"
    assert entry.inputs["version"] == "1:2.0"
    assert not list((store.cache / "resolved").glob("*"))  # the machine's own record has no part in it


def test_a_package_for_all_architectures_is_locked_once(store):
    here = resolution.Archive(store)
    resolved = resolution.ask(here, Wanted("linux-source-6.12", "trixie", "amd64"), HOST)
    assert resolved.architecture == "all"
    wanted = Wanted("linux-source-6.12", "trixie", "arm64")
    assert resolution.resolve(as_locked(here, resolved), wanted, HOST) == resolved


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Wanted("hello", "trixie", "amd64"), "no hello of trixie for amd64"),
        (Wanted("hello", "sid", "arm64"), "no hello of sid for arm64"),
        (Wanted("hullo", "trixie", "arm64"), "no hullo of trixie"),
        (
            Wanted("hello", "trixie", "arm64", "1:3.0"),
            r"asks for hello 1:3\.0, and the project's guestforge.lock has 1:2\.0",
        ),
    ],
)
def test_what_is_not_locked_where_others_are_is_an_error(store, wanted, why):
    with pytest.raises(UserError, match=why) as caught:
        resolution.resolve(resolution.Archive(store, lock=locked()), wanted, HOST)
    assert "./invoke lock" in caught.value.hint


def test_a_version_that_is_locked_and_pinned_alike_is_taken(store):
    archive = resolution.Archive(store, lock=locked())
    assert resolution.resolve(archive, Wanted("hello", "trixie", "arm64", "1:2.0"), HOST).version == "1:2.0"


def test_a_locked_file_that_is_not_the_archives_is_an_error_with_both_digests(store):
    archive = resolution.Archive(store, lock=locked())
    with pytest.raises(UserError, match=r"hello 1:2\.0 in suite trixie for arm64 is another file") as caught:
        Evaluation(store).entry(package_step(archive, "hello", "trixie", "arm64"))
    assert "0" * 64 in caught.value.message


def test_a_locked_version_that_left_the_suite_says_what_would_help(store):
    archive = resolution.Archive(store, lock=locked(version="1:1.0"))
    with pytest.raises(UserError, match=r"hello 1:1\.0 is not in suite trixie") as caught:
        Evaluation(store).entry(package_step(archive, "hello", "trixie", "arm64"))
    assert "./invoke lock" in caught.value.hint
