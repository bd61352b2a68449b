"""OCI images with the real skopeo and umoci: every way to have one, and every way in which one can be wrong."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from guestforge.arch import AARCH64, ARCHES, X86_64
from guestforge.core.cache import Place, clean
from guestforge.core.errors import BuildError, UserError
from guestforge.core.exposure import exposed, is_real_root
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.oci.image import User, find_user, open_image
from guestforge.testing.oci_images import make_archive, make_layout, member, tool
from guestforge.testing.runtimes import Noting

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]
TREE = {
    "etc/passwd": "root:x:0:0:::\nbob:x:1234:50:::\n",
    "etc/group": "users:x:100:bob\n",
    "bin/tool": (0o4755, b"program"),
    "gone": "x",
    "dir/": (0o1777, b""),
}
ODD = [
    member(".wh.gone"),
    member("bin/other", tarfile.LNKTYPE, linkname="bin/tool"),
    member("owned", uid=1234, gid=77),
    member("shut/", tarfile.DIRTYPE, 0),
    member("shut/none", mode=0),
    member("link", tarfile.SYMTYPE, linkname="/etc/hostname"),
    member("pipe", tarfile.FIFOTYPE),
]
KINDS = ("docker-archive", "oci-archive")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    place = tmp_path_factory.mktemp("image") / "layout"
    said = {"args": ["/bin/tool", "x y"], "env": ["B=1", "A=2=3"], "user": "bob", "cwd": "/dir"}
    return make_layout(place, TREE, X86_64, layers=[ODD], **said)


@pytest.fixture
def mine(layout, tmp_path):
    """A copy of the layout, to be changed."""
    return Path(shutil.copytree(layout, tmp_path / "mine"))


def at(root, path):
    return (root / path).lstat()


def require_whole(image):
    assert (image.args, dict(image.environment), image.cwd) == (("/bin/tool", "x y"), {"B": "1", "A": "2=3"}, "/dir")
    assert list(image.environment) == ["B", "A"]
    assert image.user == User(1234, 50, (100,))
    assert (image.root / "bin" / "tool").read_bytes() == b"program"
    assert not (image.root / "gone").exists()
    assert not list(image.root.rglob(".wh.*"))
    assert at(image.root, "bin/tool").st_ino == at(image.root, "bin/other").st_ino
    modes = {"bin/tool": 0o4755, "dir": 0o1777, "shut": 0 if is_real_root() else 0o700, "pipe": 0o644}
    assert {path: stat.S_IMODE(at(image.root, path).st_mode) for path in modes} == modes
    assert stat.S_ISFIFO(at(image.root, "pipe").st_mode)
    assert (image.root / "link").readlink() == Path("/etc/hostname")
    owner = (1234, 77) if is_real_root() else (os.geteuid(), os.getegid())
    assert (at(image.root, "owned").st_uid, at(image.root, "owned").st_gid) == owner


def digest(layout):
    return json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]


def test_a_layout_is_unpacked_as_it_says(layout, store):
    image = open_image(str(layout), X86_64, store)
    require_whole(image)
    assert image.digest == digest(layout)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compressed", ["", "gzip", "zstd"])
def test_an_archive_is_unpacked_as_it_says(layout, store, tmp_path, kind, compressed):
    path = make_archive(layout, kind, tmp_path / "a.tar")
    if compressed:
        tool(compressed, "--quiet", path)
        path = next(tmp_path.glob("a.tar.*"))
    path = path.rename(tmp_path / f"with:colon {path.name}")
    require_whole(open_image(str(path), X86_64, store))


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_has_tags(layout, store, tmp_path, kind):
    path = make_archive(layout, kind, tmp_path / "a.tar", name="mine:v1")
    require_whole(open_image(f"{path}:mine:v1", X86_64, store))
    with pytest.raises(UserError) as caught:
        open_image(f"{path}:mine:v2", X86_64, store)
    assert "mine:v2" in caught.value.excerpt


def test_layers_may_be_compressed_by_zstd(layout, store, tmp_path):
    plain = make_archive(layout, KINDS[0], tmp_path / "a.tar")
    tool("skopeo", "copy", "--dest-compress-format=zstd", f"docker-archive:{plain}", f"oci:{tmp_path / 'zstd'}:latest")
    assert any(path.read_bytes()[:4] == b"\x28\xb5\x2f\xfd" for path in (tmp_path / "zstd/blobs/sha256").iterdir())
    require_whole(open_image(str(tmp_path / "zstd"), X86_64, store))


def verbs(runtime):
    return [words for words in runtime.verbs if "--version" not in words]


def counting():
    """The host; `verbs` has the words of each program that ran."""
    found = []

    def run(argv, **how):
        found.append([str(word) for word in argv])
        return HOST.run(argv, **how)

    runtime = Noting(run=run)
    runtime.verbs = found
    return runtime


def test_an_image_is_fetched_and_unpacked_once(layout, store, tmp_path):
    path = make_archive(layout, "docker-archive", tmp_path / "a.tar")
    for reference in (str(layout), str(path)):
        first, second = counting(), counting()
        image = open_image(reference, X86_64, store, first)
        assert [words[0] for words in verbs(first)] == ["skopeo", "umoci"]
        assert open_image(reference, X86_64, store, second) == image
        assert verbs(second) == []


def test_another_image_under_the_same_tag_is_another_one(mine, store):
    open_image(str(mine), X86_64, store)
    make_layout(mine, {"new": "x"}, X86_64)
    assert (open_image(str(mine), X86_64, store).root / "new").exists()


def test_nobody_else_gets_into_an_image(layout, store, tmp_path):
    tmp_path.chmod(0o755)
    image = open_image(str(layout), X86_64, store)
    assert stat.S_IMODE(image.root.parent.stat().st_mode) == 0o700
    assert exposed(image.root) is None


# of an architecture


def both(place):
    for arch in (X86_64, AARCH64):
        make_layout(place, {"name": arch.name}, arch, tag=arch.name)
    return place


def as_index(layout, **platforms):
    """Have a layout's images be one, for several platforms."""
    index = json.loads((layout / "index.json").read_text())
    for image in index["manifests"]:
        image["platform"] = platforms[image.pop("annotations")["org.opencontainers.image.ref.name"]]
    return index


def one_of_several(layout, variant=None):
    extra = {"variant": variant} if variant else {}
    platforms = {arch.name: {"os": "linux", "architecture": arch.go} for arch in (X86_64, AARCH64)}
    platforms["aarch64"] |= extra
    index = as_index(layout, **platforms)
    index["mediaType"] = "application/vnd.oci.image.index.v1+json"
    data = json.dumps(index).encode()
    name = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / name).write_bytes(data)
    entry = {"mediaType": index["mediaType"], "digest": f"sha256:{name}", "size": len(data)}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return layout


@pytest.mark.parametrize("variant", [None, "v8"])
def test_of_an_image_of_several_architectures_the_guests_is_taken(store, tmp_path, variant):
    layout = one_of_several(both(tmp_path / "layout"), variant)
    for arch in (X86_64, AARCH64):
        assert (open_image(str(layout), arch, store).root / "name").read_text() == arch.name
    with pytest.raises(UserError) as caught:
        open_image(str(layout), ARCHES["s390x"], store)
    assert "s390x" in caught.value.excerpt


def test_of_images_with_one_tag_the_guests_is_taken(store, tmp_path):
    layout = both(tmp_path / "layout")
    platforms = {arch.name: {"os": "linux", "architecture": arch.go} for arch in (X86_64, AARCH64)}
    (layout / "index.json").write_text(json.dumps(as_index(layout, **platforms)))
    assert (open_image(str(layout), AARCH64, store).root / "name").read_text() == "aarch64"


def test_a_tag_chooses_of_several_images(store, tmp_path):
    layout = both(tmp_path / "layout")
    assert (open_image(f"{layout}:x86_64", X86_64, store).root / "name").read_text() == "x86_64"
    with pytest.raises(UserError, match="has 2 images"):
        open_image(str(layout), X86_64, store)


@pytest.mark.parametrize("kind", ["layout", *KINDS])
def test_an_image_of_another_architecture_is_refused(layout, store, tmp_path, kind):
    path = layout if kind == "layout" else make_archive(layout, kind, tmp_path / "a.tar")
    with pytest.raises(UserError, match="for x86_64, the guest is aarch64") as caught:
        open_image(str(path), AARCH64, store)
    assert caught.value.hint == "--arch x86_64"
    assert_nothing_kept(store)


def assert_nothing_kept(store):
    assert not [*store.cache.glob("store/oci/*"), *store.cache.glob("tmp/*")]


# damaged


def blobs(layout):
    """The files of an image: manifest, configuration, layers. umoci leaves others, from before a change."""

    def path(named):
        return layout / "blobs" / "sha256" / named.removeprefix("sha256:")

    manifest = json.loads(path(digest(layout)).read_text())
    found = (manifest["config"], *manifest["layers"])
    return [path(digest(layout)), *(path(each["digest"]) for each in found)]


def test_any_changed_byte_of_a_layout_is_noticed(mine, store):
    for path in blobs(mine):
        data = path.read_bytes()
        path.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
        with pytest.raises(UserError):
            open_image(str(mine), X86_64, store)
        path.unlink()
        with pytest.raises(UserError):
            open_image(str(mine), X86_64, store)
        path.write_bytes(data)
    assert_nothing_kept(store)
    require_whole(open_image(str(mine), X86_64, store))


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_is_cut_short_is_refused(layout, store, tmp_path, kind):
    path = make_archive(layout, kind, tmp_path / "a.tar")
    whole = path.read_bytes()
    for size in range(1000, len(whole.rstrip(b"\0")), 3000):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError):
            open_image(str(path), X86_64, store)
    assert_nothing_kept(store)


def test_what_is_no_image_is_refused(store, tmp_path):
    (tmp_path / "a.tar").write_text("no tar")
    (tmp_path / "empty").mkdir()
    tool("umoci", "init", "--layout", tmp_path / "none")
    for name in ("a.tar", "empty", "none", "nothing"):
        with pytest.raises(UserError):
            open_image(str(tmp_path / name), X86_64, store)


def test_an_image_whose_user_is_not_there_is_refused(store, tmp_path):
    layout = make_layout(tmp_path / "layout", {"a": ""}, X86_64, user="amy")
    with pytest.raises(UserError, match="would run as a user that can't be found: user 'amy'"):
        open_image(str(layout), X86_64, store)


def test_no_link_and_no_pipe_of_an_image_is_followed_for_its_users(store, tmp_path):
    (tmp_path / "outside").write_text("eve:x:66:66:::\n")
    outside = str(tmp_path / "outside")
    odd = [member("etc/passwd", tarfile.SYMTYPE, linkname=outside), member("etc/group", tarfile.FIFOTYPE)]
    layout = make_layout(tmp_path / "layout", {"a": ""}, X86_64, user="5", layers=[odd])
    image = open_image(str(layout), X86_64, store)
    assert image.user == User(5, 0)
    with pytest.raises(UserError, match="'eve' is not in"):
        find_user(image.root, "eve")


def named(name, kind=tarfile.REGTYPE, **facts):
    """A file of a layer under a name that `member` would mend."""
    found = member("x", kind, **facts)
    found.name = name
    return found


@pytest.mark.parametrize("name", ["../../escaped", "/../../escaped", "up/escaped", "/tmp/../../escaped"])
def test_no_layer_writes_outside_of_the_image(store, tmp_path, name):
    layer = [named("up", tarfile.SYMTYPE, linkname="../../.."), named(name)]
    layout = make_layout(tmp_path / "layout", {"a": ""}, X86_64, layers=[layer])
    image = open_image(str(layout), X86_64, store)
    found = [*tmp_path.rglob("escaped"), *Path("/").glob("escaped"), *Path("/tmp").glob("escaped")]
    assert found == [next(image.root.rglob("escaped"))]


@pytest.mark.parametrize(
    "odd",
    [
        named(".", tarfile.SYMTYPE, linkname="/etc"),
        named("a/..", tarfile.SYMTYPE, linkname="/etc"),
        named("/", tarfile.FIFOTYPE),
        named(".wh.."),
        named(".wh..."),
        named("a/.wh..."),
        named("linked", tarfile.LNKTYPE, linkname="../../../../../../../../../../../../etc/passwd"),
    ],
    ids=lambda odd: odd.name,
)
def test_a_layer_that_takes_the_root_away_or_links_out_of_it_is_refused(store, tmp_path, odd):
    """umoci 0.4.7 has a whiteout of `..` remove the directory above the image, which is ours and new."""
    layout = make_layout(tmp_path / "layout", {"b": ""}, X86_64, layers=[[odd]])
    with pytest.raises(UserError, match=r"can't be unpacked|is malformed"):
        open_image(str(layout), X86_64, store)
    assert_nothing_kept(store)


def test_an_image_may_be_empty(store, tmp_path):
    layout = make_layout(tmp_path / "layout", {}, X86_64)
    image = open_image(str(layout), X86_64, store)
    assert (list(image.root.iterdir()), image.args, image.user) == ([], (), User(0, 0))


def test_an_archive_that_changes_while_it_is_read_is_refused(layout, store, tmp_path):
    path = make_archive(layout, "docker-archive", tmp_path / "a.tar")

    def run(argv, **how):
        done = HOST.run(argv, **how)
        if "copy" in argv:
            os.utime(path, (1, 1))
        return done

    with pytest.raises(UserError, match="changed while it was read"):
        open_image(str(path), X86_64, store, Noting(run=run))
    assert_nothing_kept(store)


# as a user

PROGRAM = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import test_oci_images as tests
place = Path(sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(65534)  # no user but root may get to this Python
image = tests.open_image(str(place / "layout"), tests.X86_64, tests.Store(place / "cache"))
tests.require_whole(image)
assert tests.clean(tests.Place(place / "cache")) == (), "something was kept"
assert not (place / "cache").exists()
print("done")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests are a user's then")
def test_a_user_has_images_too_and_gets_rid_of_them(layout, open_place):
    """Of files of mode 0000 and directories that nobody may enter, who is not root can read all, and is rid of them."""
    home = open_place / "home"
    home.mkdir()
    shutil.copytree(layout, home / "layout")
    for path in (home, *home.rglob("*")):
        os.chown(path, 65534, 65534)
    # the checkout may be where nobody else gets to, as below root's home
    shutil.copytree(REPOSITORY / "guestforge", open_place / "code" / "guestforge")
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, home, here, here.parent, open_place / "code"],
        cwd=home,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
    )
    assert (done.returncode, done.stdout[-5:]) == (0, "done\n"), done.stdout + done.stderr


# of a registry


class Registry(BaseHTTPRequestHandler):
    """A registry that has one layout's image under every name; `asked` has the paths."""

    layout: Path
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        kind, name = self.path.split("/")[-2:]
        if self.path == "/v2/":
            return self.answer(b"{}", "application/json")
        if kind == "manifests" and name == "latest":
            name = digest(self.layout)
        path = self.layout / "blobs" / "sha256" / name.removeprefix("sha256:")
        if not path.is_file():
            error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            return self.answer(json.dumps(error).encode(), "application/json", 404)
        data = path.read_bytes()
        return self.answer(data, json.loads(data).get("mediaType", MANIFEST) if kind == "manifests" else "x/x")

    do_HEAD = do_GET

    def answer(self, data, kind, code=200):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def registry(mine):
    handler = type("Handler", (Registry,), {"layout": mine, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    server.server_close()


def without_tls():
    """The host, with a skopeo that takes a registry without TLS."""

    def run(argv, **how):
        words = [str(word) for word in argv]
        where = {"copy": "--src-tls-verify=false", "inspect": "--tls-verify=false"}
        argv = [each for word in words for each in ([word, where[word]] if word in where else [word])]
        return HOST.run(argv, **how)

    return Noting(run=run)


def test_a_registrys_image_is_fetched_once_and_asked_for_each_time(registry, mine, store):
    host, asked = registry
    image = open_image(f"{host}/some/name", X86_64, store, without_tls())
    require_whole(image)
    assert image.digest == digest(mine)
    assert [path for path in asked if path.endswith("manifests/latest")] == ["/v2/some/name/manifests/latest"]
    asked.clear()
    assert open_image(f"docker://{host}/some/name:latest", X86_64, store, without_tls()) == image
    assert not [path for path in asked for layer in blobs(mine)[2:] if layer.name in path]
    asked.clear()
    assert open_image(f"{host}/some/name:v1@{digest(mine)}", X86_64, store, without_tls()) == image
    assert asked == []


def test_what_a_registry_does_not_have_is_the_users_mistake_and_a_silent_one_is_not(registry, store):
    host, _ = registry
    with pytest.raises(UserError) as caught:
        open_image(f"{host}/name:other", X86_64, store, without_tls())
    assert "manifest unknown" in caught.value.excerpt
    with pytest.raises(BuildError, match="can't be had"):
        open_image("127.0.0.1:1/name", X86_64, store, without_tls())


def test_a_layer_that_is_not_what_the_registry_promised_is_noticed(registry, mine, store):
    host, _ = registry
    path = blobs(mine)[-1]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises((UserError, BuildError), match="can't be had"):
        open_image(f"{host}/name", X86_64, store, without_tls())
    assert_nothing_kept(store)


def test_clean_removes_images(layout, store):
    open_image(str(layout), X86_64, store)
    assert clean(Place(store.cache)) == ()
    assert not store.cache.exists()
