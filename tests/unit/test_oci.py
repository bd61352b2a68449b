"""OCI images: what is read of a reference, a layout, a configuration and an image's users, all of it untrusted."""

import contextlib
import gzip
import hashlib
import json
import os
import string
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guestforge.arch import AARCH64, ARCHES, X86_64
from guestforge.core.errors import BuildError, UserError
from guestforge.core.run import Completed
from guestforge.core.store import Store
from guestforge.oci import archive, document, tools
from guestforge.oci.archive import archive_kind, provide
from guestforge.oci.config import Config, parse_config, require_architecture
from guestforge.oci.document import parse_document, read_blob, read_document
from guestforge.oci.image import User, find_user, open_image
from guestforge.oci.inside import open_inside
from guestforge.oci.layout import choose, isolate
from guestforge.oci.reference import Source, find_source
from guestforge.oci.tools import Wanted, copy, registry_digest, unpack
from guestforge.testing.runtimes import Noting

DIGEST = "sha256:" + "a" * 64
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

# references


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alpine", "alpine:latest"),
        ("alpine:3.20", "alpine:3.20"),
        ("docker://alpine", "alpine:latest"),
        ("localhost:5000/a/b_c:1", "localhost:5000/a/b_c:1"),
        ("host.test/a", "host.test/a:latest"),
        (f"a/b@{DIGEST}", f"a/b@{DIGEST}"),
        (f"a/b:tag@{DIGEST}", f"a/b@{DIGEST}"),
    ],
)
def test_what_is_no_path_is_a_registrys(tmp_path, monkeypatch, text, name):
    monkeypatch.chdir(tmp_path)
    assert find_source(text) == Source("docker", name)


@pytest.mark.parametrize("text", ["./a", "/nowhere/a", "a.tar", "a.tar:tag", "a.tar.gz", "../a:b", "b/a.tgz"])
def test_a_path_that_is_not_there_is_not_looked_up_in_a_registry(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file or directory"):
        find_source(text)


@pytest.mark.parametrize("text", ["", "A", "oci:/a", "a b", "a\nb", "a\0b", "-a", "a:", "a@sha256:1", "http://a", "é"])
def test_what_names_nothing_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="names no image"):
        find_source(text)


def test_a_directory_is_a_layout_with_a_tag_or_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout = tmp_path / "a:b"
    layout.mkdir()
    (layout / "oci-layout").write_text("{}")
    assert find_source("a:b") == find_source(str(layout)) == Source("layout", "", layout)
    assert find_source("./a:b:tag:more") == Source("layout", "tag:more", layout)


def test_a_directory_that_is_no_layout_may_have_the_name_of_an_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alpine").mkdir()
    (tmp_path / "busybox").touch()
    assert find_source("alpine:3") == Source("docker", "alpine:3")
    assert find_source("busybox") == Source("docker", "busybox:latest")
    with pytest.raises(UserError, match="is no OCI layout"):
        find_source("./alpine:3")


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(UserError, match="is no tar of an image"):
        find_source(str(tmp_path / "a.tar"))


@many
@given(st.text() | st.text(string.ascii_letters + string.digits + "./:@-_"))
def test_any_reference_is_a_source_or_a_users_error(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(UserError):
        find_source(text)


# archives


def write_tar(path, *names, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["a/layer.tar", "manifest.json"], "docker-archive"),
        (["oci-layout", "manifest.json"], "docker-archive"),
        (["./index.json", "./oci-layout"], "oci-archive"),
        (["a/oci-layout", "b/manifest.json"], None),
        ([], None),
    ],
)
def test_an_archive_is_told_by_the_names_in_it(tmp_path, names, kind, mode):
    assert archive_kind(write_tar(tmp_path / "a.tar", *names, mode=mode)) == kind


def test_an_archive_may_be_compressed_by_zstd(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    path = write_tar(tmp_path / "a.tar", "oci-layout")
    path.write_bytes(zstandard.compress(path.read_bytes()))
    assert archive_kind(path) == "oci-archive"


def test_not_more_headers_are_looked_at_than_an_image_has(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", *(f"{number}" for number in range(10)), "oci-layout")
    monkeypatch.setattr(archive, "MAX_HEADERS", 10)
    assert archive_kind(path) is None
    monkeypatch.setattr(archive, "MAX_HEADERS", 11)
    assert archive_kind(path) == "oci-archive"


def test_no_header_is_read_whatever_it_claims(tmp_path):
    """A pax header of 8 GiB, with nothing of it there but a hole."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 * 1024**3 - 1
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT))
    os.truncate(path, 9 * 1024**3)
    assert archive_kind(path) is None


def test_what_is_compressed_is_not_read_without_end(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("big", "oci-layout"):
            info = tarfile.TarInfo(name)
            info.size = 1024 * 1024
            tar.addfile(info, BytesIO(bytes(info.size)))
    monkeypatch.setattr(archive, "MAX_PLACE", 512 * 1024)
    with pytest.raises(UserError, match="uncompressed"):
        archive_kind(path)


def test_a_compressed_archive_is_uncompressed_for_skopeo_and_not_without_end(tmp_path, monkeypatch):
    plain = write_tar(tmp_path / "a.tar", "oci-layout")
    path = write_tar(tmp_path / "a.tar.gz", "oci-layout", mode="w:gz")
    provide(plain, tmp_path / "link")
    assert (tmp_path / "link").readlink() == plain
    provide(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == gzip.decompress(path.read_bytes())
    monkeypatch.setattr(archive, "MAX_PLACE", 4096)
    with pytest.raises(UserError, match="more than 4096 bytes"):
        provide(path, tmp_path / "another")
    path.write_bytes(path.read_bytes()[:-5])
    monkeypatch.undo()
    with pytest.raises(UserError, match="cut short"):
        provide(path, tmp_path / "third")


def test_an_archive_that_is_cut_short_is_said_to_be(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("layer.tar")
        info.size = 100_000
        tar.addfile(info, BytesIO(bytes(info.size)))
    os.truncate(path, 50_000)
    with pytest.raises(UserError, match="cut short"):
        find_source(str(path))


@many
@given(st.binary(max_size=2048), st.sampled_from([b"", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd"]), st.booleans())
def test_any_file_is_an_archive_or_a_users_error(tmp_path, data, head, follows):
    start = tarfile.TarInfo("a").tobuf() if follows and not head else b""
    (tmp_path / "a.tar").write_bytes(start + head + data)
    with contextlib.suppress(UserError):
        assert archive_kind(tmp_path / "a.tar") in {None, "docker-archive", "oci-archive"}


# documents

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000])
def test_a_document_that_is_none_is_refused(data):
    with pytest.raises(UserError, match="the thing is no"):
        parse_document(data, "the thing")


def test_a_document_is_read_up_to_a_limit(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"{}" + b" " * 100)
    assert read_document(tmp_path / "a", "it") == {}
    monkeypatch.setattr(document, "LIMIT", 100)
    with pytest.raises(UserError, match="larger than 100 bytes"):
        read_document(tmp_path / "a", "it")


def test_no_link_and_no_pipe_is_read_for_a_document(tmp_path):
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(UserError, match="is no file"):
            read_document(tmp_path / name, "it")
    with pytest.raises(UserError, match="can't be read"):
        read_document(tmp_path / "nothing", "it")


@pytest.mark.parametrize("digest", ["", "sha256:../../etc/passwd", "sha256:" + "A" * 64, "sha512:" + "a" * 128])
def test_a_digest_that_is_none_leads_nowhere(tmp_path, digest):
    with pytest.raises(UserError, match="no SHA-256 digest"):
        read_blob(tmp_path, digest, "it")


def put(layout, value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    return f"sha256:{digest}"


def index(layout, *descriptors):
    layout.mkdir(exist_ok=True)
    (layout / "oci-layout").write_text("{}")
    (layout / "index.json").write_text(json.dumps({"manifests": descriptors}))
    return layout


def tagged(tag, **facts):
    return {"annotations": {"org.opencontainers.image.ref.name": tag}, **facts}


def on(arch):
    return {"platform": {"os": "linux", "architecture": arch.go}}


def test_the_only_image_needs_no_tag(tmp_path):
    assert choose(index(tmp_path / "a", tagged("x", size=1)), "", X86_64)["size"] == 1
    assert choose(index(tmp_path / "a", {"size": 2}), "", X86_64)["size"] == 2


def test_one_of_several_images_is_chosen_by_tag_and_architecture(tmp_path):
    layout = index(tmp_path / "a", tagged("x"), tagged("y", **on(X86_64)), tagged("y", **on(AARCH64)))
    assert choose(layout, "x", X86_64) == tagged("x")
    assert choose(layout, "y", AARCH64) == tagged("y", **on(AARCH64))
    assert choose(index(tmp_path / "b", on(X86_64), on(AARCH64)), "", AARCH64) == on(AARCH64)


@pytest.mark.parametrize(
    ("descriptors", "tag", "said"),
    [
        ([], "", "has no image"),
        ([tagged("x")], "y", "no image with the tag 'y'"),
        ([tagged("x"), tagged("y")], "", "has 2 images"),
        ([tagged("x"), tagged("x")], "x", "has 2 images with the tag 'x'"),
    ],
)
def test_no_image_and_several_are_told(tmp_path, descriptors, tag, said):
    with pytest.raises(UserError, match=said) as caught:
        choose(index(tmp_path / "a", *descriptors), tag, X86_64)
    assert not descriptors or "'x'" in caught.value.hint


@many
@given(json_values | st.fixed_dictionaries({"manifests": st.lists(json_values)}))
def test_any_index_is_one_or_a_users_error(tmp_path, value):
    (tmp_path / "index.json").write_text(json.dumps(value))
    with contextlib.suppress(UserError):
        choose(tmp_path, "", X86_64)


def test_a_manifest_without_its_digest_is_refused(tmp_path):
    layout = tmp_path / "layout"
    manifest = put(layout, {"config": {}})
    several = put(layout, {"manifests": [{"digest": manifest, **on(X86_64)}, {"digest": DIGEST, **on(AARCH64)}]})
    index(layout, {"digest": several})
    isolate(layout, {"digest": several}, X86_64, tmp_path / "one")
    assert json.loads((tmp_path / "one" / "index.json").read_text())["manifests"][0]["digest"] == several
    (layout / "blobs" / "sha256" / manifest.removeprefix("sha256:")).write_text("{}")
    for digest in (manifest, several):
        with pytest.raises(UserError, match="does not have its digest"):
            isolate(layout, {"digest": digest}, X86_64, tmp_path / "other")


# configurations


def test_a_configuration_is_read():
    config = {"Entrypoint": ["/a"], "Cmd": ["b"], "Env": ["B=1", "A=2=3", "B=4", "C="], "WorkingDir": "/w", "User": "u"}
    read = parse_config({"config": config})
    assert read == Config(("/a", "b"), {"B": "4", "A": "2=3", "C": ""}, "/w", "u")
    assert list(read.environment) == ["B", "A", "C"]
    assert parse_config({}) == parse_config({"config": {"Env": None, "Cmd": None}}) == Config((), {}, "/", "")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ([], "no object"),
        ({"Cmd": "sh"}, "no list"),
        ({"Cmd": [1]}, "something else than a string"),
        ({"Cmd": ["a\0b"]}, "NUL"),
        ({"Cmd": ["\ud800"]}, "half a character"),
        ({"Cmd": ["x"] * 5000}, "5000 values"),
        ({"Cmd": ["x" * 200_000]}, "200000 bytes"),
        ({"Cmd": ["x" * 100_000] * 11}, "more than 1048576 bytes"),
        ({"Env": ["A"]}, "not NAME=VALUE"),
        ({"Env": ["=A"]}, "not NAME=VALUE"),
        ({"WorkingDir": "a"}, "not absolute"),
        ({"WorkingDir": 1}, "something else"),
        ({"User": ["root"]}, "something else"),
    ],
)
def test_a_wrong_configuration_is_refused(config, said):
    with pytest.raises(UserError, match=said):
        parse_config({"config": config})


keys = st.sampled_from(["Entrypoint", "Cmd", "Env", "WorkingDir", "User"])


@given(
    st.dictionaries(
        st.just("config") | st.text(), st.dictionaries(keys, json_values | st.lists(st.text())) | json_values
    )
)
def test_any_configuration_is_one_or_a_users_error(value):
    with contextlib.suppress(UserError):
        parse_config(value)
    with pytest.raises(UserError):
        require_architecture(value, X86_64)


@pytest.mark.parametrize("arch", ARCHES.values(), ids=lambda arch: arch.name)
def test_the_architecture_is_the_guests(arch):
    require_architecture({"os": "linux", "architecture": arch.go}, arch)
    other = next(row for row in ARCHES.values() if row is not arch)
    with pytest.raises(UserError, match=f"for {other.name}, the guest is {arch.name}") as caught:
        require_architecture({"os": "linux", "architecture": other.go}, arch)
    assert caught.value.hint == f"--arch {other.name}"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"os": "windows", "architecture": "amd64"}, "'windows'"),
        ({"os": "linux", "architecture": "riscv64"}, "'riscv64'"),
        ({"os": "linux"}, "no architecture"),
        ({}, "no os"),
    ],
)
def test_another_system_or_architecture_is_refused(facts, said):
    with pytest.raises(UserError, match=said):
        require_architecture(facts, X86_64)


# users

PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1234:50:Bob,,,:/:\nbad:x:-1:0:::\nworse:x\n77:x:88:89:::\n"
GROUP = "root:x:0:\nusers:x:100:bob,eve\nwheel:x:10:root,bob\nagain:x:100:bob\nbroken:x:y:bob\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "passwd").write_text(PASSWD)
    (tmp_path / "root" / "etc" / "group").write_text(GROUP)
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (10,))),
        ("root", User(0, 0, (10,))),
        ("bob", User(1234, 50, (100, 10))),
        ("1234", User(1234, 50, (100, 10))),
        ("bob:wheel", User(1234, 10)),
        ("bob:7", User(1234, 7)),
        ("bob:", User(1234, 50, (100, 10))),
        (":wheel", User(0, 10)),
        ("5", User(5, 0)),
        ("5:6", User(5, 6)),
        ("5:wheel", User(5, 10)),
        ("77", User(77, 0)),
        ("4294967294:4294967294", User(4294967294, 4294967294)),
    ],
)
def test_a_user_is_found(root, text, user):
    assert find_user(root, text) == user


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("eve", "user 'eve' is not in"),
        ("bob:eve", "group 'eve' is not in"),
        ("bad", "'bad' is not in"),
        ("worse", "'worse' is not in"),
        ("4294967295", "is no id"),
        ("0:4294967295", "is no id"),
        ("-1", "is no id"),
        ("1:2:3", "is none"),
        ("a\0b", "is none"),
        ("a\n", "is none"),
    ],
)
def test_who_is_not_there_is_told(root, text, said):
    with pytest.raises(UserError, match=said):
        find_user(root, text)


def test_an_image_without_these_files_has_numbers(tmp_path):
    assert find_user(tmp_path, "") == find_user(tmp_path, "0") == User(0, 0)
    assert find_user(tmp_path, "7:8") == User(7, 8)


def test_a_link_in_an_image_stays_in_it(root, tmp_path):
    (tmp_path / "outside").write_text("eve:x:66:66:::\n")
    (root / "etc" / "passwd").unlink()
    nowhere, round_and_round = "'eve' is not in", "Too many levels of symbolic links"
    for target, said in {
        tmp_path / "outside": nowhere,
        "../../outside": nowhere,
        "../../../../../../../../../outside": nowhere,
        "passwd": round_and_round,
        "/etc/passwd": round_and_round,
    }.items():
        (root / "etc" / "passwd").symlink_to(target)
        with pytest.raises(UserError, match=said):
            find_user(root, "eve")
        (root / "etc" / "passwd").unlink()
    (root / "etc" / "passwd").symlink_to("/nix/../../nix/./passwd")
    (root / "nix").symlink_to("usr/../usr")
    (root / "usr").mkdir()
    (root / "usr" / "passwd").write_text("amy:x:5:6:::\n")
    assert find_user(root, "amy") == User(5, 6)


def test_a_pipe_in_an_image_is_not_waited_for(root):
    for name in ("passwd", "group"):
        (root / "etc" / name).unlink()
        os.mkfifo(root / "etc" / name)
    assert find_user(root, "3") == User(3, 0)
    assert open_inside(root, "/etc") is None


def test_a_file_of_users_is_bounded(root):
    (root / "etc" / "passwd").write_text("#" * (1024 * 1024 + 1))
    with pytest.raises(UserError, match="larger than"):
        find_user(root, "3")


@many
@given(st.text() | st.from_regex(r"[0-9a-z:+-]*", fullmatch=True), st.binary(max_size=200), st.binary(max_size=200))
def test_any_user_of_any_files_is_one_or_a_users_error(root, text, passwd, group):
    (root / "etc" / "passwd").write_bytes(b"a:x:1:2\n" + passwd)
    (root / "etc" / "group").write_bytes(b"a:x:1:a\n" + group)
    with contextlib.suppress(UserError):
        find_user(root, text)


# tools that fail

FATAL = 'time="x" level=fatal msg="reading manifest: %s"\n'


def failing(output, code=1):
    return Noting(run=lambda argv, **_: Completed(tuple(map(str, argv)), code, output))


@pytest.mark.parametrize(
    ("address", "output", "code", "error"),
    [
        ("docker://a", FATAL % "manifest unknown", 1, UserError),
        ("docker://a", FATAL % "requested access to the resource is denied", 1, UserError),
        ("docker://a", FATAL % "dial tcp: connection refused", 1, BuildError),
        ("docker://a", "what?", 1, BuildError),
        ("oci:a", FATAL % 'digest \\"x\\" is wrong', 1, UserError),
        ("oci:a", FATAL % "write: no space left on device", 1, BuildError),
        ("oci:a", "", -9, BuildError),
    ],
)
def test_what_a_tool_says_is_shown_as_whose_mistake_it_is(tmp_path, address, output, code, error):
    with pytest.raises(error) as caught:
        copy(Wanted(address, "mine", X86_64), tmp_path, failing(output, code))
    assert type(caught.value) is error
    assert "mine" in caught.value.message
    assert (
        caught.value.excerpt == output.partition('msg="')[2].rstrip('"\n').replace('\\"', '"') or "msg=" not in output
    )


def test_umocis_words_are_shown_and_no_control_character(tmp_path):
    with pytest.raises(UserError) as caught:
        unpack(tmp_path, tmp_path / "root", "mine", failing("  • unpacking\n  \u2a2f layer \x1b[2J is bad   \n"))
    assert caught.value.excerpt == "layer ?[2J is bad"


def test_a_registrys_digest_is_what_skopeo_says():
    wanted = Wanted("docker://a", "a", AARCH64)
    ran = []

    def run(argv, **how):
        ran.append((argv, how))
        return Completed(tuple(argv), 0, f"warning\n{DIGEST}\n")

    assert registry_digest(wanted, Noting(run=run)) == DIGEST
    ((argv, how),) = ran
    assert {"--override-os=linux", "--override-arch=arm64", "--override-variant=v8"} <= set(argv)
    assert how["timeout"] == tools.ASK
    with pytest.raises(BuildError, match="no digest"):
        registry_digest(wanted, failing("sha256:short\n", 0))


def test_nothing_is_kept_of_an_image_that_fails(tmp_path):
    layout = tmp_path / "layout"
    index(layout, {"digest": put(layout, {"config": {"digest": DIGEST}})})
    store = Store(tmp_path / "cache")
    runtime = Noting(run=lambda argv, **_: Completed(tuple(map(str, argv)), 0 if "--version" in argv else 1, "no"))
    with pytest.raises(UserError, match="can't be had"):
        open_image(str(layout), X86_64, store, runtime)
    assert runtime.started == ["skopeo", "umoci", "skopeo"]
    assert not list(Path(store.cache).glob("store/*/*")) + list(Path(store.cache).glob("tmp/*"))
