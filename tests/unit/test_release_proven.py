"""What may be released: what the store has, proven with exactly these files; and all that is not is named at once."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from checkout import REPOSITORY

from guestforge.arch import S390X, X86_64
from guestforge.check.report import FILES as CHECKED
from guestforge.cli import release as cli
from guestforge.core.errors import UserError
from guestforge.core.graph import Evaluation, walk
from guestforge.core.step import Step, Use
from guestforge.core.store import Store
from guestforge.manifest import MANIFEST
from guestforge.pipeline import Pipeline
from guestforge.project.options import BuildOptions, CheckOptions, ReleaseOptions, VerifyOptions
from guestforge.release.names import NOTES, ROOTS, members
from guestforge.release.proven import NotProvenError, find_proven
from guestforge.rootfs.gomodules import BUILD
from guestforge.rootfs.parts import Parts
from guestforge.testing.fake_steps import fake_step
from tests.unit.test_pipeline import FILES, KERNEL_FACTS

CHECKS = CheckOptions()
RESOLVED = {"package": "linux-source-6.12", "version": "6.12.117-1", "architecture": "all", "sha256": "0" * 64}
VERSIONS = {"kernel": "6.12.117", "compiler": "gcc", "linker": "ld", "go": "1.26.6"}


def agent_step(real):
    """The agent's step, which has not compiled anything but leaves what the real one leaves."""

    def make(out, _used, _runtime):
        (out / "agent").write_bytes(b"agent")
        (out / BUILD).write_text('{"go": "1.26.6", "modules": []}')

    return replace(real, make=make)


IMPORTED = """
import sys, tasks
from guestforge.cli import commands
theirs = ("guestforge.release", "minisign", "semver", "cryptography", "cyclonedx", "packageurl", "jinja2")
print([name for name in theirs if name in sys.modules])
from guestforge.cli import release
print("minisign" in sys.modules)
"""


def test_a_build_does_not_import_what_a_release_needs():
    done = subprocess.run([sys.executable, "-c", IMPORTED], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\nTrue\n"


@pytest.fixture
def guest(tmp_path, monkeypatch):
    """Return a pipeline of an architecture on a store of its own, its steps fakes; `reports` changes a report."""
    monkeypatch.setattr(Pipeline, "_versions", lambda _: VERSIONS)

    def make(arch=X86_64, reports=lambda _: None, kernel=KERNEL_FACTS, evaluation=None):
        evaluation = evaluation or Evaluation(Store(tmp_path / "cache"))
        pipeline = Pipeline(arch, BuildOptions(output=tmp_path / "out"), evaluation)
        facts = json.dumps(kernel).encode()
        contents = {name: dict.fromkeys(files, facts) for name, files in FILES.items()}
        contents["kernel"]["config"] = b"CONFIG_A=y\n"
        made = {name: fake_step(name, files, arch=arch.name) for name, files in contents.items()}
        source = replace(fake_step("source", {}), inputs=lambda _: RESOLVED)
        made["kernel"] = replace(made["kernel"], uses={"source": Use(source)})
        pipeline.steps = replace(pipeline.steps, **made, parts=Parts(agent_step(pipeline.steps.agent)))

        def check_step(booted, _options):
            def fill(out, *_):
                report = {
                    "schema": 1, "arch": arch.name, "guest": "minimal", "artifact": booted, "verdict": "pass",
                    "digests": pipeline.booted_digests(booted), "checks": [{"name": "kernel-up", "status": "pass"}],
                }  # fmt: skip
                report |= {"accelerator": "tcg", "phases": {"agent_ready": 1.5}, "measurements": {}}
                reports(report)
                for name in CHECKED:
                    (out / name).write_text(json.dumps(report))

            root = {"initrd": pipeline.steps.initrd, "image": pipeline.steps.image}[booted]
            uses = {"kernel": Use(pipeline.steps.kernel, ("kernel",)), "root": Use(root, (ROOTS[booted],))}
            return Step("check", lambda _: {}, fill, (), CHECKED, arch.name, booted, uses=uses)

        steps = {name: check_step(name, CHECKS) for name in ROOTS}
        monkeypatch.setattr(pipeline, "check_step", lambda booted, _: steps[booted])
        return pipeline

    return make


def build(pipeline):
    for step in (*pipeline.steps.published, *(pipeline.check_step(name, CHECKS) for name in ROOTS)):
        pipeline.entry(step)


def not_proven(pipeline):
    with pytest.raises(NotProvenError) as caught:
        find_proven(pipeline, CHECKS, "1.0.0")
    return caught.value.problems


def test_what_was_built_and_passed_may_be_released(guest):
    build(guest())
    found = find_proven(guest(), CHECKS, "1.0.0")
    assert tuple(found.files) == members()
    said = json.loads(found.files[MANIFEST])
    assert said["release"]["version"] == "1.0.0"
    assert said["artifacts"]["kernel"]["sha256"] == found.files["kernel"].facts.sha256


def test_when_it_was_built_is_in_the_manifest(guest):
    pipeline = guest()
    build(pipeline)
    proofs = [pipeline.check_step(name, CHECKS) for name in ROOTS]
    times = [pipeline.entry(step).times for step in (*walk(*pipeline.steps.published), *proofs)]
    built = json.loads(find_proven(pipeline, CHECKS, "1.0.0").manifest)["release"]["built"]
    assert built == {"started": min(each.started for each in times), "finished": max(each.finished for each in times)}
    # what is not known of one step is not known of all
    step = pipeline.entry(pipeline.steps.kernel).path / "step.json"
    facts = json.loads(step.read_text())
    del facts["times"]
    step.write_text(json.dumps(facts))
    again = guest()
    assert json.loads(find_proven(again, CHECKS, "1.0.0").manifest)["release"]["built"] is None


def test_nothing_is_built(guest, tmp_path):
    problems = not_proven(guest())
    assert [problem.split(" is ")[0] for problem in problems] == ["kernel", "initrd", "image"]
    assert list((tmp_path / "cache").glob("store/*")) == []


def test_what_was_not_checked_is_named(guest):
    pipeline = guest()
    for step in (*pipeline.steps.published, pipeline.check_step("image", CHECKS)):
        pipeline.entry(step)
    assert [problem.split(" has ")[0] for problem in not_proven(guest())] == ["check initrd"]


def test_a_check_of_other_files_is_none(guest):
    build(guest())
    other = guest(kernel={**KERNEL_FACTS, "release": "7"})
    for step in other.steps.published:
        other.entry(step)
    problems = not_proven(guest(kernel={**KERNEL_FACTS, "release": "7"}))
    assert [problem.split(" has ")[0] for problem in problems] == ["check initrd", "check image"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda report: report.update(verdict="fail"), "not passed"),
        (lambda report: report["digests"].update(kernel="0" * 64), "other files"),
        (lambda report: report.pop("digests"), "digests"),
        (lambda report: report.update(schema=9), "schema"),
        (lambda report: report["checks"][0].update(status="skip"), "kernel-up"),
    ],
)
def test_a_report_that_does_not_prove_these_files_is_named(guest, change, said):
    build(guest(reports=change))
    problems = not_proven(guest())
    assert {problem[:12] for problem in problems} == {"check/initrd", "check/image/"}
    assert len(problems) == 2
    assert all(said in problem for problem in problems)


def test_what_is_wrong_with_a_step_is_a_problem_of_its_own(guest):
    pipeline = guest()

    def wrong(_):
        raise UserError("this fragment is wrong")

    pipeline.entry(pipeline.steps.kernel.uses["source"].step)
    kernel = replace(pipeline.steps.kernel, inputs=wrong)
    pipeline.steps = replace(pipeline.steps, kernel=kernel)
    assert "kernel: this fragment is wrong" in not_proven(pipeline)


@pytest.fixture
def pipelines(guest, monkeypatch):
    """Have the command work on pipelines of fakes; a guest that is called `wrong` has no recipe."""

    def make(arch, built, evaluation, _jobs):
        if built.guest == "wrong":
            raise UserError("there is no guest 'wrong'")
        return guest(arch, evaluation=evaluation)

    def prepare(*arches):
        for arch in arches:
            build(guest(arch))

    monkeypatch.setattr(cli, "Pipeline", make)
    monkeypatch.setattr(cli, "Store", lambda: guest().store)
    monkeypatch.delenv("GUESTFORGE_RELEASE_KEY", raising=False)
    return prepare


def asked(tmp_path, **more):
    return ReleaseOptions(arches=(X86_64, S390X), version="1.0.0", output=tmp_path / "release", **more)


def test_the_command_tells_every_problem_and_what_would_mend_it(pipelines, tmp_path):
    pipelines(X86_64)
    with pytest.raises(UserError) as caught:
        cli.release(asked(tmp_path, guests=("wrong", "minimal")), CheckOptions(accel="tcg", timeout=5.0))
    assert caught.value.exit_code == 1
    lines = caught.value.excerpt.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["x86_64 wrong", "s390x wrong", *["s390x minimal"] * 3]
    assert caught.value.hint == "./invoke build --arch s390x --guest minimal --accel tcg --timeout 5.0"
    assert not (tmp_path / "release").exists()


def test_a_release_of_two_architectures_verifies(pipelines, tmp_path, capsys):
    pipelines(X86_64, S390X)
    cli.release(asked(tmp_path), CHECKS)
    cli.release(asked(tmp_path), CHECKS)
    cli.verify(VerifyOptions(tmp_path / "release"))
    said = capsys.readouterr().out
    assert "minimal for s390x, 12 files, all checks passed" in said
    assert "not checked: who made it" in said
    notes = (tmp_path / "release" / NOTES).read_text()
    assert "| minimal | s390x | image | tcg | unknown | 1.50 s | unknown | unknown |" in notes
    assert "Since" not in notes


def test_the_notes_tell_what_has_changed_since(pipelines, tmp_path):
    pipelines(X86_64, S390X)
    cli.release(asked(tmp_path), CHECKS)
    new = ReleaseOptions(arches=(X86_64,), version="1.0.1", output=tmp_path / "new", since=tmp_path / "release")
    cli.release(new, CHECKS)
    notes = (tmp_path / "new" / NOTES).read_text()
    assert "## Since 1.0.0" in notes
    assert "minimal s390x is no longer there." in notes
    assert "### minimal for x86_64" in notes
    assert "- option" not in notes


def test_an_earlier_release_that_is_none_is_told_before_anything_is_looked_for(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        cli.release(asked(tmp_path, since=tmp_path / "none"), CHECKS)
