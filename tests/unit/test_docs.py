"""The documents are true: whatever has a name is described, and nothing is described that is not there.

A rule is a function of a page's text. Each is held against the page as it is, and against the page made wrong.
"""

import inspect
import re
import tomllib

import pytest
from checkout import REPOSITORY, named_in, tracked_files
from pydantic import BaseModel

import tasks
from guestforge.arch import ARCHES
from guestforge.check.checks import CHECKS
from guestforge.cli.job import INTERRUPTED, UNREAD
from guestforge.core.errors import BuildError, CheckError, UserError
from guestforge.host import selftest
from guestforge.project.models import Guest, Kernel, Rootfs, Settings
from guestforge.project.options import OPTIONS

DOCS = REPOSITORY / "docs"
AGENT = REPOSITORY / "rootfs" / "agent"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
FIGURES = "figures.md"  # written by a command, for the machine that it ran on
POSITIONAL = {name for name, declared in OPTIONS.items() if declared.place or declared.rest}
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
VARIABLE = re.compile(r"\bGUESTFORGE_[A-Z_]+")


def page(name):
    return (REPOSITORY / name if name == "README.md" else DOCS / name).read_text()


def rows(text):
    """The cells of each row of every table, heads and rules included."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]


def marked(text):
    """What stands in code marks."""
    return re.findall(r"`([^`]+)`", text)


def first_cells(text):
    """What the first column of every table holds in code marks."""
    return {word for row in rows(text) for word in marked(row[0])}


def difference(described, there):
    """What is there and not described, and what is described and not there."""
    return sorted(there - described), sorted(described - there)


def section(text, title):
    """The text of a section with this heading, up to the next one of its level."""
    found = re.search(rf"^## {re.escape(title)}.*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title}"
    return found[1]


def options_of_tasks():
    """The options of each task."""
    names = {(*aliases, name)[0] for name, aliases in tasks.namespace.task_names.items()}  # `release`, a default
    parameters = {name: list(inspect.signature(tasks.namespace[name].body).parameters)[1:] for name in names}
    return {name: {option.replace("_", "-") for option in options} - POSITIONAL for name, options in parameters.items()}


def every_task_is_described(text):
    described = {word for word in first_cells(text) if not word.startswith(("--", "GUESTFORGE_"))}
    assert difference(described, set(options_of_tasks())) == ([], [])


def every_option_is_described_with_its_tasks(text):
    building = first_cells(section(text, "Building"))
    everything = set(options_of_tasks())
    described = {row[0].strip("`"): row[1] for row in rows(section(text, "Options")) if row[0].startswith("`")}
    assert difference(set(described), {f"--{name}" for name in OPTIONS if name not in POSITIONAL}) == ([], [])
    for option, cell in described.items():
        named = set(marked(cell)) | (building if "building" in cell else set())
        named = everything - named if cell.startswith("all but") else named
        takers = {task for task, options in options_of_tasks().items() if option.removeprefix("--") in options}
        assert difference(named, takers) == ([], []), option


def every_variable_is_described(text):
    # a test in Go names one of its own, which nobody sets
    sources = [path for path in tracked_files() if path.suffix == ".py" or path.name in {"invoke", "run"}]
    there = {name for path in sources if path.name != "test_docs.py" for name in named_in(path, VARIABLE)}
    assert difference({word for word in first_cells(text) if VARIABLE.fullmatch(word)}, there) == ([], [])


RECIPES = {"Guests": Guest, "Kernels": Kernel, "Root file systems": Rootfs}
SETTINGS = {"Settings": Settings}


def recipe_keys(model, prefix=""):
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from recipe_keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def every_recipe_key_is_described(text):
    every_key_is_described(text, RECIPES)


def every_setting_is_described(text):
    every_key_is_described(text, SETTINGS)


def every_key_is_described(text, models):
    for title, model in models.items():
        described = {row[0].strip("`"): row for row in rows(section(text, title)) if row[0].startswith("`")}
        keys = dict(recipe_keys(model))
        assert difference(set(described), set(keys)) == ([], []), title
        for key, field in keys.items():
            _, kind, default, _ = described[key]
            assert (default == "required") == field.is_required(), key
            bounds = [
                str(getattr(bound, side)) for bound in field.metadata for side in ("ge", "le") if hasattr(bound, side)
            ]
            assert not bounds or kind == " to ".join(bounds), key
            if isinstance(field.default, int | str):
                assert default.strip("`") == str(field.default), key


def every_example_is_a_recipe(text):
    every_example_is_of_its_model(text, RECIPES)


def the_example_is_a_projects(text):
    every_example_is_of_its_model(text, SETTINGS)


def every_example_is_of_its_model(text, models):
    for title, model in models.items():
        example = re.search(r"```toml\n(.*?)```", section(text, title), re.DOTALL)[1]
        model.model_validate(tomllib.loads(example), strict=False)


def every_architecture_is_described(text):
    described = {row[0]: row for row in rows(section(text, "Architectures"))}
    assert len(described) == len(ARCHES) + 2  # the head and its rule
    for arch in ARCHES.values():
        words = set(WORD.findall(" ".join(described[arch.name]))) | set(described[arch.name])
        facts = {arch.console, arch.virtio_bus, arch.byte_order, arch.open_flags, arch.machine.partition(",")[0]}
        assert facts <= words, arch.name


def every_compiler_is_described(text):
    described = rows(section(text, "Compiling"))
    assert described[2:] == [[arch.name, arch.debian_compiler, arch.kernel_path] for arch in ARCHES.values()]


def every_machine_is_described(text):
    assert rows(section(text, "The machine of each architecture"))[0][1:] == list(ARCHES)


def every_check_is_described(text):
    described = first_cells(section(text, "What each check proves"))
    assert difference(described, {check.name for check in CHECKS}) == ([], [])


def every_exit_code_is_described(text):
    codes = {0, INTERRUPTED, UNREAD, *(error.exit_code for error in (UserError, BuildError, CheckError))}
    assert {int(row[0]) for row in rows(text) if row[0].isdecimal()} == codes


def every_method_is_described(text):
    protos = {name: (AGENT / "proto" / f"{name}.proto").read_text() for name in ("agent", "health")}
    methods = {name: set(re.findall(r"^  rpc (\w+)\(", proto, re.MULTILINE)) for name, proto in protos.items()}
    table = rows(section(text, "The interface").partition("\n### ")[0])
    described = {name: row[1] for row in table for name in marked(row[0])}
    there = methods["agent"] | {f"Health.{name}" for name in methods["health"]}
    assert difference(set(described), there) == ([], [])
    refused = (AGENT / "internal" / "server" / "refused.go").read_text()
    unserved = {name for name, cell in described.items() if cell.startswith("UNIMPLEMENTED")}
    assert difference(unserved, set(re.findall(r'^\t\t"(\w+)":', refused, re.MULTILINE))) == ([], [])


# Where the agent has what a section says of fields.
FIELDS = {"Fields of requests": "server/requests.go", "Fields of the spec": "container/fields.go"}


def verdicts(source):
    """What becomes of each field, by the two tables in a file of the agent's."""
    tables = dict(re.findall(r"^var (\w+) = fields\.Parse\(`\n(.*?)`\)", source, re.MULTILINE | re.DOTALL))
    for table, (plain, reasoned) in {"served": ("served", "ignored"), "unserved": ("", "refused")}.items():
        for name, _, reason in (line.partition(" ") for line in tables[table].splitlines()):
            yield name, reasoned if reason.strip() else plain


def every_field_is_described(text):
    for title, file in FIELDS.items():
        there = dict(verdicts((AGENT / "internal" / file).read_text()))
        table = rows(section(text, title))
        described = {name: row[1] for row in table for name in marked(row[0])}
        assert difference(set(described.items()), set(there.items())) == ([], []), title
        assert sum(len(marked(row[0])) for row in table) == len(described), title
        assert all(row[2] for row in table if row[1] in {"ignored", "refused"}), title


def every_python_package_is_described(text):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    listed = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.match(r"[A-Za-z0-9_.-]+", name)[0] for name in listed}
    assert difference(first_cells(section(text, "Python")), names) == ([], [])


def every_go_module_is_described(text):
    go_mod = (REPOSITORY / "rootfs" / "agent" / "go.mod").read_text()
    names = set(re.findall(r"^\t(\S+) v\S+$", go_mod, re.MULTILINE))  # an indirect one has a comment
    assert difference(first_cells(section(text, "Go, in the agent")), names) == ([], [])


def every_system_package_is_described(text):
    needs = [*selftest.TEST_NEEDS, *selftest.needs(tuple(ARCHES.values()), fast=False)]
    alike = {name for arch in ARCHES.values() for name in (arch.debian_compiler, arch.debian_qemu)}
    described = first_cells(section(text, "System packages"))
    assert described & alike  # an example of each, "and its like"
    # one of the two has virtiofsd, by the release of the host
    others = {"qemu-system-common", "virtiofsd"}
    assert difference(described - alike, {need.package for need in needs} - alike | others) == ([], [])


def every_dependency_has_a_reason_and_a_keeper(text):
    for title in ("Python", "Go, in the agent"):
        assert all(len(row) == 3 and all(row) for row in rows(section(text, title)))


def the_two_commands_are_there(text):
    commands = re.findall(r"^    (\./invoke .*)$", text, re.MULTILINE)
    assert commands == ["./invoke build --arch x86_64", "./invoke test"]
    assert commands[1] in (REPOSITORY / ".ci" / "run").read_text()


def every_page_is_linked(text):
    linked = set(re.findall(r"\]\(docs/([^)]+)\)", text))
    assert difference(linked - {FIGURES}, {path.name for path in DOCS.glob("*.md")} - {FIGURES}) == ([], [])


RULES = [
    ("tasks.md", every_task_is_described),
    ("tasks.md", every_option_is_described_with_its_tasks),
    ("tasks.md", every_variable_is_described),
    ("tasks.md", every_exit_code_is_described),
    ("recipes.md", every_recipe_key_is_described),
    ("recipes.md", every_example_is_a_recipe),
    ("projects.md", every_setting_is_described),
    ("projects.md", the_example_is_a_projects),
    ("architecture.md", every_architecture_is_described),
    ("kernels.md", every_compiler_is_described),
    ("machines.md", every_machine_is_described),
    ("checks.md", every_check_is_described),
    ("agent.md", every_method_is_described),
    ("agent.md", every_field_is_described),
    ("dependencies.md", every_python_package_is_described),
    ("dependencies.md", every_go_module_is_described),
    ("dependencies.md", every_system_package_is_described),
    ("dependencies.md", every_dependency_has_a_reason_and_a_keeper),
    ("README.md", every_exit_code_is_described),
    ("README.md", the_two_commands_are_there),
    ("README.md", every_page_is_linked),
]


@pytest.mark.parametrize(("name", "rule"), RULES, ids=lambda value: getattr(value, "__name__", value))
def test_documents_are_true(name, rule):
    rule(page(name))


# A rule, and its page made wrong: what is there taken away, what is not there put in, a fact changed.
WRONG = [
    (every_task_is_described, "| `initrd` |", "| initrd |"),
    (every_task_is_described, "| `initrd` |", "| `initrd`, `initramfs` |"),
    (every_task_is_described, "| `bench.boot` |", "| `bench.boots` |"),
    (every_option_is_described_with_its_tasks, "| `--jobs` |", "| --jobs |"),
    (every_option_is_described_with_its_tasks, "| `--jobs` |", "| `--threads` |"),
    (every_option_is_described_with_its_tasks, "| `--fast` | `test` |", "| `--fast` | `build` |"),
    (every_option_is_described_with_its_tasks, "| `--store` | `clean` |", "| `--store` | `clean`, `doctor` |"),
    (every_option_is_described_with_its_tasks, "| all but `clean`,", "| all but `test`,"),
    (every_variable_is_described, "| `GUESTFORGE_INSTALL` |", "| GUESTFORGE_INSTALL |"),
    (every_variable_is_described, "| `GUESTFORGE_INSTALL` |", "| `GUESTFORGE_INSTALL`, `GUESTFORGE_NO` |"),
    (every_exit_code_is_described, "| 3 |", "| three |"),
    (every_exit_code_is_described, "| 3 |", "| 4 |"),
    (every_recipe_key_is_described, "| `boot.cpus` |", "| boot.cpus |"),
    (every_recipe_key_is_described, "| `links` |", "| `symlinks` |"),
    (every_recipe_key_is_described, "| 56 to 524288 |", "| 64 to 524288 |"),
    (every_recipe_key_is_described, "| 1 to 255 | 1 |", "| 1 to 255 | 2 |"),
    (every_recipe_key_is_described, "| name | required | a recipe", "| name | none | a recipe"),
    (every_example_is_a_recipe, "memory_mib = 512", "memory = 512"),
    (every_setting_is_described, "| `guest` |", "| `guests` |"),
    (every_setting_is_described, "| minimal |", "| debug |"),
    (the_example_is_a_projects, 'guest = "mine"', 'guests = "mine"'),
    (every_architecture_is_described, "| s390x |", "| s309x |"),
    (every_architecture_is_described, "| hvc0 |", "| hvc1 |"),
    (every_compiler_is_described, "| vmlinux |", "| zImage |"),
    (every_machine_is_described, "| ppc64le |", "| ppc64 |"),
    (every_check_is_described, "| `poweroff` |", "| poweroff |"),
    (every_check_is_described, "| `poweroff` |", "| `reboot` |"),
    (every_method_is_described, "| `CopyFile` |", "| CopyFile |"),
    (every_method_is_described, "| `CopyFile` |", "| `CopyFile`, `CopyFiles` |"),
    (every_method_is_described, "| UNIMPLEMENTED: there is no policy engine |", "| a policy |"),
    (every_field_is_described, "| `Storage.shared` | served |", "| `Storage.shared` | ignored |"),
    (every_field_is_described, "| `Storage.shared` |", "| `Storage.shared`, `Storage.none` |"),
    (every_field_is_described, "`Linux.MaskedPaths`, ", ""),
    (every_field_is_described, "| `Version` | ignored | whatever", "| `Version` | served | whatever"),
    (every_field_is_described, "| refused | this is Linux |", "| refused | |"),
    (every_python_package_is_described, "| `tqdm` |", "| tqdm |"),
    (every_python_package_is_described, "| `tqdm` |", "| `rich` |"),
    (every_go_module_is_described, "| `golang.org/x/sys` |", "| `golang.org/x/net` |"),
    (every_system_package_is_described, "`flex`, ", ""),
    (every_system_package_is_described, "`flex`, ", "`flex`, `parted`, "),
    (every_dependency_has_a_reason_and_a_keeper, "| strict types |", "| |"),
    (the_two_commands_are_there, "    ./invoke test", "    ./invoke test --fast"),
    (the_two_commands_are_there, "    ./invoke test", "    ./invoke doctor\n    ./invoke test"),
    (every_page_is_linked, "(docs/vsock.md)", "(docs/tasks.md)"),
]


@pytest.mark.parametrize(("rule", "old", "new"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_what_is_wrong_is_noticed(rule, old, new):
    pages = [name for name, its in RULES if its is rule]
    assert any(old in page(name) for name in pages)
    for name in pages:
        if old in page(name):
            with pytest.raises((AssertionError, KeyError, ValueError)):
                rule(page(name).replace(old, new))


def test_every_rule_is_broken_by_something():
    assert {rule for rule, _, _ in WRONG} == {rule for _, rule in RULES}


def wrong_commands(text):
    """Command lines of ours that name a task that is not there, or an option that the task does not take."""
    known = options_of_tasks()
    for task, rest in re.findall(r"\./invoke ([a-z]+(?:\.[a-z]+)*)([^`\n]*)", text):
        options = set(re.findall(r"--([a-z][a-z-]*)", rest))
        if task not in known or not options <= known[task]:
            yield f"{task}{rest}"


def broken_links(place, text):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    return [target for target in targets if "://" not in target and not (place.parent / target).exists()]


def missing_files(text):
    """Files of the repository that are named and not there; names with placeholders aside."""
    named = re.findall(r"`((?:\.ci|docs|guestforge|kernel-configs|recipes|rootfs|tests)/[^`\s<>*]*)`", text)
    return [name for name in named if "NAME" not in name and not (REPOSITORY / name).exists()]


@pytest.mark.parametrize("place", PAGES, ids=lambda place: place.name)
def test_what_a_page_refers_to_is_there(place):
    text = place.read_text()
    assert broken_links(place, text) == []
    assert missing_files(text) == []
    assert list(wrong_commands(text)) == []


def test_a_reference_to_nothing_is_noticed():
    assert broken_links(DOCS / "x.md", "[a](tasks.md) [b](no.md#c)") == ["no.md"]
    assert missing_files("`guestforge/arch.py` `guestforge/no.py` `recipes/guests/NAME.toml`") == ["guestforge/no.py"]
    said = "`./invoke test --fast` `./invoke bench.boot` `./invoke make` `./invoke clean --fast`\n./invoke test --slow"
    assert list(wrong_commands(said)) == ["make", "clean --fast", "test --slow"]
