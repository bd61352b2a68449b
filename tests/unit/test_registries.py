"""Where packages come from is the user's setting: no file of ours names a host that serves them."""

import re

import pytest
from checkout import REPOSITORY, named_in, tracked_files

# In parts, or this file would be the one that names them. Documentation and projects' pages on the same domains are no
# registries.
REGISTRY = re.compile(
    r"(?:deb|security|snapshot|httpredir|cdn-fastly|cdn-aws|ftp|ftp\.[a-z]{2})\.debian" + r"\.org"
    r"|(?:archive|ports|security)\.ubuntu" + r"\.com"
    r"|(?<![\w.-])(?:test\.|upload\.)?pypi" + r"\.(?:org|io)|files\.python" + r"hosted\.org"
    r"|(?:proxy|sum|index)\.golang" + r"\.org|goproxy\.(?:io|cn)"
    r"|(?:registry[\w-]*|index|auth|production\.cloudflare)\.docker" + r"\.(?:io|com)|(?<![\w.'-])docker" + r"\.io/"
    r"|(?<![\w.-])(?:ghcr|quay|gcr)" + r"\.io|registry\.npmjs" + r"\.org|(?:static\.|index\.)crates" + r"\.io"
    r"|(?:cdn|mirrors(?:\.edge)?)\.kernel" + r"\.org",
    re.IGNORECASE,
)


def naming_files(root):
    files = {str(path.relative_to(root)): named_in(path, REGISTRY) for path in tracked_files(root)}
    return {name: hosts for name, hosts in files.items() if hosts}


def test_no_file_names_a_registry():
    assert naming_files(REPOSITORY) == {}


def test_a_file_that_names_one_is_found_without_git_too(tmp_path):
    host = "deb.debian" + ".org"
    for name in ("docs/page.md", ".venv/pip.conf", "output/x", ".ci/run"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"see http://{host}/debian\n")
    assert naming_files(tmp_path) == {"docs/page.md": [host], ".ci/run": [host]}


@pytest.mark.parametrize(
    "host",
    ["http://deb.debian" + ".org/debian", "ftp.de.debian" + ".org", "https://pypi" + ".org/simple",
     "files.python" + "hosted.org", "GOPROXY=https://proxy.golang" + ".org", "registry-1.docker" + ".io",
     "docker" + ".io/library/debian", "ghcr" + ".io/x", "https://cdn.kernel" + ".org/pub"],
)  # fmt: skip
def test_a_registry_is_noticed(host):
    assert REGISTRY.search(f"see {host}")


@pytest.mark.parametrize(
    "text",
    ["https://www.debian.org/releases/", "https://docs.kernel.org/filesystems/fuse.html", "golang.org/x/sys v0.49.0",
     "the engine from Debian's docker" + ".io runs", "https://docs.astral.sh/uv/", "https://mirror.example/debian"],
)  # fmt: skip
def test_a_page_about_something_is_no_registry(text):
    assert not REGISTRY.search(text)
