"""The documents are true: whatever has a name is described, and nothing is described that is not there."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

import tasks
from guestforge.arch import ARCHES
from guestforge.check.checks import CHECKS
from guestforge.cli import INTERRUPTED, OPTIONS
from guestforge.errors import BuildError, CheckError, UserError
from guestforge.host import packages
from guestforge.recipe.models import Guest, Kernel, Rootfs

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def page(name):
    return (DOCS / name).read_text()


def first_cells(text):
    """What the first column of every table holds in code marks."""
    rows = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def difference(described, there):
    """What is there and not described, and what is described and not there."""
    return sorted(there - described), sorted(described - there)


def task_names():
    return set(tasks.namespace.task_names)


def recipe_keys(model, prefix=""):
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from recipe_keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def section(text, title):
    """The text of a section with this heading, up to the next one of its level."""
    found = re.search(rf"^## {re.escape(title)}.*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title}"
    return found[1]


def check_tasks(text):
    described = first_cells(text)
    options = {name for name in described if name.startswith("--")}
    exits = {"GUESTFORGE_CACHE", "GUESTFORGE_INSTALL", "GUESTFORGE_TEST_ARCHES", "GUESTFORGE_ACCEPT_GOLDEN"}
    assert difference(described - options - exits, task_names()) == ([], [])
    assert difference(options, {f"--{name}" for name in OPTIONS}) == ([], [])


def test_every_task_and_option_is_described():
    check_tasks(page("tasks.md"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("| `initrd` |", "| initrd |"),
        ("| `initrd` |", "| `initrd` | x |\n| `initramfs` |"),
        ("| `--jobs` |", "| --jobs |"),
        ("| `--jobs` |", "| `--threads` |"),
    ],
)
def test_a_task_or_option_that_is_not_described_is_noticed(old, new):
    text = page("tasks.md")
    assert old in text
    with pytest.raises(AssertionError):
        check_tasks(text.replace(old, new))


RECIPES = {"Guests": Guest, "Kernels": Kernel, "Root file systems": Rootfs}


def check_recipes(text):
    for title, model in RECIPES.items():
        assert difference(first_cells(section(text, title)), set(recipe_keys(model))) == ([], []), title


def test_every_recipe_key_is_described():
    check_recipes(page("recipes.md"))


@pytest.mark.parametrize("key", ["boot.cpus", "source.suite", "links"])
def test_a_recipe_key_that_is_not_described_is_noticed(key):
    text = page("recipes.md")
    assert f"| `{key}` |" in text
    with pytest.raises(AssertionError):
        check_recipes(text.replace(f"| `{key}` |", "| |"))


def test_examples_of_recipes_are_recipes():
    for title, model in RECIPES.items():
        example = re.search(r"```toml\n(.*?)```", section(page("recipes.md"), title), re.DOTALL)[1]
        model.model_validate(tomllib.loads(example), strict=False)


def check_architectures(text):
    rows = {
        row.split("|")[1].strip(): row for row in section(text, "Architectures").splitlines() if row.startswith("| ")
    }
    for arch in ARCHES.values():
        for fact in (arch.console, arch.virtio_bus, arch.byte_order, arch.open_flags, arch.machine.partition(",")[0]):
            assert fact in WORD.findall(rows[arch.name]) or fact in rows[arch.name], f"{arch.name}: {fact}"
    assert len(rows) == len(ARCHES) + 2  # the head and its rule


def test_every_architecture_is_described():
    check_architectures(page("architecture.md"))


@pytest.mark.parametrize(("old", "new"), [("| s390x |", "| s309x |"), ("| hvc0 |", "| hvc1 |")])
def test_an_architecture_that_is_described_wrong_is_noticed(old, new):
    text = page("architecture.md")
    assert old in text
    with pytest.raises((AssertionError, KeyError)):
        check_architectures(text.replace(old, new))


def test_every_check_is_described():
    described = first_cells(section(page("checks.md"), "What each check proves"))
    assert difference(described, {check.name for check in CHECKS}) == ([], [])


def test_exit_codes_are_described():
    codes = {0, INTERRUPTED, *(error.exit_code for error in (UserError, BuildError, CheckError))}
    for text in (page("tasks.md"), (REPOSITORY / "README.md").read_text()):
        assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == codes


def dependency_names():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    listed = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    return {re.match(r"[A-Za-z0-9_.-]+", name)[0] for name in listed}


def go_modules():
    text = (REPOSITORY / "rootfs" / "agent" / "go.mod").read_text()
    return set(re.findall(r"^\t(\S+) v\S+$", text, re.MULTILINE))  # an indirect one has a comment


def test_every_dependency_is_described():
    text = page("dependencies.md")
    assert difference(first_cells(section(text, "Python")), dependency_names()) == ([], [])
    assert difference(first_cells(section(text, "Go, in the agent")), go_modules()) == ([], [])


def test_every_system_package_is_described():
    needs = [*packages.agent_needs(), *packages.image_needs(), *packages.test_needs()]
    for arch in ARCHES.values():
        needs += [*packages.kernel_needs(arch), *packages.boot_needs(arch)]
    text = section(page("dependencies.md"), "System packages")
    per_arch = {arch.debian_compiler for arch in ARCHES.values()} | {arch.debian_qemu for arch in ARCHES.values()}
    assert {need.package for need in needs} - per_arch - set(re.findall(r"`([^`]+)`", text)) == set()


def test_the_readme_has_the_two_commands():
    commands = re.findall(r"^    (\./invoke .*)$", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert commands == ["./invoke build --arch x86_64", "./invoke test"]
    assert commands[1] in (REPOSITORY / ".ci" / "run").read_text()


def broken_links(place, text):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    return [target for target in targets if "://" not in target and not (place.parent / target).exists()]


@pytest.mark.parametrize("place", PAGES, ids=lambda place: place.name)
def test_links_lead_somewhere(place):
    assert broken_links(place, place.read_text()) == []


def test_a_broken_link_is_noticed():
    assert broken_links(DOCS / "x.md", "[a](tasks.md) [b](no.md#c)") == ["no.md"]


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\(docs/([^)]+)\)", (REPOSITORY / "README.md").read_text()))
    assert linked == {path.name for path in DOCS.glob("*.md")}


# In parts, or this file would be the one that names them.
REGISTRIES = ["deb." + "debian.org", "security." + "debian.org", "pypi" + ".org", "files." + "pythonhosted",
              "proxy." + "golang.org", "registry-1." + "docker.io", "ghcr" + ".io", "quay" + ".io"]  # fmt: skip


def registries_in(text):
    return [name for name in REGISTRIES if name in text]


def tracked_files():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True)
    if done.returncode == 0:
        return [REPOSITORY / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in REPOSITORY.rglob("*") if path.is_file() and ".venv" not in path.parts]


def test_no_file_names_a_registry():
    found = {
        str(path.relative_to(REPOSITORY)): names
        for path in tracked_files()
        if path.is_file() and path.stat().st_size < 2_000_000
        and (names := registries_in(path.read_text(errors="replace")))
    }  # fmt: skip
    assert found == {}


def test_a_registry_is_noticed():
    assert registries_in("see https://" + REGISTRIES[0]) == [REGISTRIES[0]]
