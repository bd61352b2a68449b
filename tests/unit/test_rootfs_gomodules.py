"""What a Go program says it was made from, and by which licences: of real programs, and of real licences' texts."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from guestforge.arch import X86_64
from guestforge.core.errors import BuildError
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.rootfs.agent import AGENT, given_step, go_version, program_step
from guestforge.rootfs.gomodules import BUILD, escaped, go_program, write_build
from guestforge.rootfs.licences import KNOWN, licence_of

APACHE = Path("/usr/share/common-licenses/Apache-2.0")  # of base-files, which every Debian has
MAIN = 'package main\n\nimport "example.org/Dep"\n\nfunc main() { println(dep.Word) }\n'


@pytest.fixture
def sources(tmp_path):
    """A module that stands on another, which lies beside it."""
    root = tmp_path / "module"
    for name, text in {
        "go.mod": "module guestforge.dev/agent\n\ngo 1.24\n\nrequire example.org/Dep v1.0.0\n\n"
        "replace example.org/Dep => ./dep\n",
        "dep/go.mod": "module example.org/Dep\n\ngo 1.24\n",
        "dep/dep.go": 'package dep\n\nconst Word = "a"\n',
        "cmd/agent/main.go": MAIN,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def build(entry):
    return json.loads(entry.file(BUILD).read_text())


def test_what_the_agent_was_made_from_is_kept_beside_it(tmp_path, sources):
    store = Store(tmp_path / "cache")
    entry = Evaluation(store).entry(program_step(store, X86_64, AGENT, Jobserver(2), sources))
    module = {"path": "./dep", "version": "", "sum": None, "licence": None}
    assert build(entry) == {"go": go_version(), "modules": [module]}
    given = Evaluation(store).entry(given_step(X86_64, entry.file(AGENT)))
    assert build(given) == {"go": go_version(), "modules": [module]}


def test_of_a_program_that_is_none_of_go_s_nothing_is_known(tmp_path):
    write_build(Path("/bin/true"), tmp_path, None, HOST)
    assert json.loads((tmp_path / BUILD).read_text()) == {"go": "", "modules": []}


def test_one_of_ours_that_says_nothing_is_an_error(tmp_path):
    with pytest.raises(BuildError, match="does not say what it was made from"):
        write_build(Path("/bin/true"), tmp_path, tmp_path, HOST)


class Said:
    """A runtime in which Go says something else than it does."""

    def __init__(self, output):
        self.returncode, self.output = 0, output

    def run(self, *_args, **_more):
        return self


@pytest.mark.parametrize("output", ["{", "[1]", '{"Deps": [1]}', '{"GoVersion": 1}', '{"Deps": [{}]}'])
def test_what_is_not_understood_is_an_error(tmp_path, output):
    with pytest.raises(BuildError, match="nobody understands"):
        write_build(Path("x"), tmp_path, None, Said(output))


def test_a_licence_is_that_of_the_module_s_top(tmp_path):
    info = {"GoVersion": "go1.2", "Deps": [{"Path": "a.org/Big/mod", "Version": "v1.0.0", "Sum": "h1:x"}]}
    module = tmp_path / "a.org" / "!big" / "mod@v1.0.0"
    module.mkdir(parents=True)

    def found():
        write_build(Path("x"), tmp_path, tmp_path, Said(json.dumps(info)))
        (row,) = json.loads((tmp_path / BUILD).read_text())["modules"]
        assert (row["path"], row["version"], row["sum"]) == ("a.org/Big/mod", "v1.0.0", "h1:x")
        return row["licence"]

    assert found() is None
    shutil.copy(APACHE, module / "License.txt")
    assert found() == "Apache-2.0"
    (module / "LICENSE-MIT").write_text("MIT")
    assert found() is None, "which one holds is not known"
    (module / "LICENSE-MIT").unlink()
    (module / "License.txt").unlink()
    (module / "LICENSE").symlink_to(APACHE)
    assert found() is None, "a link leads elsewhere"


@pytest.mark.parametrize("path", ["github.com/A/bCd", "a/!b", "plain"])
def test_names_in_the_cache_are_go_s_own(path):
    if "!" not in path:
        assert escaped(path) == path.replace("A", "!a").replace("C", "!c")
    assert escaped(path) == escaped(path).lower()


# Licences


def test_apache():
    text = APACHE.read_text()
    assert licence_of(text) == "Apache-2.0"
    assert licence_of(text.replace("   ", "\t").replace("\n", "\r\n").upper()) == "Apache-2.0"
    assert licence_of(text.replace("perpetual", "brief", 1)) is None
    assert licence_of(text.partition("APPENDIX")[0]) == "Apache-2.0"
    assert licence_of(f"{text}\nBut not on Sundays.\n") is None
    assert licence_of(text.replace("TERMS", "TERMS except on Sundays", 1)) is None


def licensed():
    """Yield what installed packages say of their licence, with the text where there is one alone."""
    for package in importlib.metadata.distributions():
        files = package.metadata.get_all("License-File") or []
        if (said := package.metadata["License-Expression"]) and len(files) == 1:
            text = package.read_text(f"licenses/{files[0]}")
            if text:
                yield package.name, said, text


def test_licences_are_what_packages_say_that_theirs_is():
    rows = [(name, said, licence_of(text)) for name, said, text in licensed()]
    assert [row for row in rows if row[2] not in (None, row[1])] == []
    known = {found for _, _, found in rows if found}
    assert {"MIT", "BSD-3-Clause", "BSD-2-Clause", "Apache-2.0"} <= known | {licence_of(APACHE.read_text())}
    unknown = [row for row in rows if row[1] in KNOWN.values() and row[2] is None]
    assert len(unknown) < len(rows) / 4, unknown


def test_a_text_with_one_word_more_is_none_of_them():
    for _, said, text in licensed():
        if licence_of(text) == said:
            assert licence_of(f"{text}\nexcept on Sundays\n") is None


def test_go_is_there():
    assert "go version" in subprocess.run([go_program(), "version"], capture_output=True, text=True, check=True).stdout
    assert go_program().parent == Path(sys.executable).parent
