"""What publishing costs: memory does not go by sizes, and time is near to that of skopeo with the same blobs."""

import hashlib
import os
import subprocess
import sys
import time

import pytest
from oci_registry import registry, skopeo
from releases import ARCH, VERSION, contents, manifest

from guestforge.core.progress import Bar
from guestforge.core.store import FileFacts
from guestforge.manifest import json_text
from guestforge.publish.address import find_place
from guestforge.publish.place import Release
from guestforge.release.documents import read_manifest
from guestforge.release.names import SUFFIX, SUMS, stem
from guestforge.release.sums import sums_text

MIB = 2**20
ARCHES = (ARCH, "aarch64", "ppc64le", "s390x")


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with registry(tmp_path_factory.mktemp("registry") / "registry") as found:
        yield found


def large(directory, size):
    """A release with archives of this size, of which no place looks at the content."""
    directory.mkdir()
    files, manifests = {}, {}
    for arch in ARCHES:
        name = stem("minimal", VERSION, arch) + SUFFIX
        state = hashlib.sha256()
        with (directory / name).open("wb") as file:
            for _ in range(size // MIB):
                data = os.urandom(MIB)
                state.update(data)
                file.write(data)
        files[name] = FileFacts(state.hexdigest(), size)
        manifests[name] = read_manifest(json_text(manifest(contents(arch), VERSION, arch)).encode())
    sums = sums_text({name: facts.sha256 for name, facts in files.items()})
    (directory / SUMS).write_bytes(sums)
    files[SUMS] = FileFacts(hashlib.sha256(sums).hexdigest(), len(sums))
    return Release(directory, VERSION, files, manifests)


MEMORY = """
import resource, sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_publish_measured import large
from guestforge.publish.address import find_place
place = Path(sys.argv[1])
release = large(place / "release", 400 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for text in sys.argv[2:]:
    there = find_place(text, plain=False)
    there.publish(release)
    back = place / text.partition(":")[0]
    back.mkdir()
    there.fetch(back)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.alone
def test_memory_does_not_go_by_the_size(tmp_path, port):
    places = [f"file:{tmp_path / 'public'}", f"oci://127.0.0.1:{port}/memory:1"]
    argv = [sys.executable, "-c", MEMORY.format(path=sys.path), str(tmp_path), *places]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    print(f"{done.stdout.strip()} MiB at most, with four archives of 400 MiB")
    assert int(done.stdout) < 256


@pytest.mark.slow
@pytest.mark.alone
def test_publishing_takes_little_longer_than_skopeo(tmp_path, port, monkeypatch):
    monkeypatch.setattr(Bar, "tell", lambda *_, **__: None)
    ours, theirs = [], []
    for number in range(3):
        made = large(tmp_path / f"release{number}", 60 * MIB)
        with registry(tmp_path / f"from{number}") as source:
            find_place(f"oci://127.0.0.1:{source}/a:1", plain=False).publish(made)
            start = time.monotonic()
            find_place(f"oci://127.0.0.1:{port}/ours{number}:1", plain=False).publish(made)
            ours.append(time.monotonic() - start)
        # the same blobs, of a layout, to another repository of a registry that does not have them
        layout = f"oci:{tmp_path / f'layout{number}'}:x"
        with registry(tmp_path / f"from{number}") as source, registry(tmp_path / f"to{number}") as target:
            both = ["--src-tls-verify=false", "--dest-tls-verify=false"]
            skopeo("copy", "--all", *both[:1], f"docker://127.0.0.1:{source}/a:1", layout)
            start = time.monotonic()
            skopeo("copy", "--all", *both[1:], layout, f"docker://127.0.0.1:{target}/b:1")
            theirs.append(time.monotonic() - start)
    print(f"ours {min(ours):.2f} s, skopeo {min(theirs):.2f} s, {min(ours) / min(theirs):.2f} of it")
    assert min(ours) < 1.3 * min(theirs)
