"""Guests that are booted at once, without a build before: what is missing is made as a build makes it."""

import pytest

from guestforge.arch import PROVEN
from guestforge.bootable import Bootable, make_guests
from guestforge.core import events
from guestforge.core.errors import BuildError, UserError
from guestforge.core.events import Complained, Ended
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.step import Step, Use
from guestforge.core.store import Store
from guestforge.project.models import Guest
from guestforge.project.options import BuildOptions
from guestforge.targets import BootSteps
from guestforge.testing.fake_steps import fake_step

NAMES = ("kernel", "initrd", "image", "probe", "conform", "storagebench")


def broken(error):
    def make(_out, _used, _runtime):
        raise error

    return Step("kernel", lambda _: {"broken": True}, make, (), ("kernel",), arch="none")


@pytest.fixture
def guest_of(tmp_path):
    evaluation, jobs = Evaluation(Store(tmp_path / "cache")), Jobserver(2)

    def make(arch, **replaced):
        steps = {name: fake_step(name, {name: b"x"}, arch=arch.name) for name in NAMES} | replaced
        steps["initrd"] = fake_step("initrd", {"initrd": b"x"}, arch=arch.name, uses={"kernel": Use(steps["kernel"])})
        recipe = Guest(description="a test's", kernel="none", rootfs="none")
        made = BootSteps(guest=recipe, own_agent=True, **steps)
        return Bootable(arch, BuildOptions(output=tmp_path / "output"), made, evaluation, jobs)

    return make


def told(*guests, **more):
    seen = []
    with events.shown_by(seen.append):
        make_guests(*guests, **more)
    return seen


def test_what_is_booted_of_all_guests_is_made_and_nothing_else(guest_of):
    one, other = map(guest_of, PROVEN[:2])
    seen = told(one, other, booted=("initrd",))
    made = {event.step for event in seen if isinstance(event, Ended) and event.state == "built"}
    names = ("kernel", "initrd", "probe")
    assert made == {f"{arch.name} {name}" for arch in PROVEN[:2] for name in names}
    assert one.evaluation.find(one.steps.image) is None


def test_what_is_there_is_told_of_with_no_word(guest_of):
    guest = guest_of(PROVEN[0])
    assert told(guest)
    assert told(guest) == []


@pytest.mark.parametrize("error", [BuildError, UserError])
def test_what_fails_is_told_and_nothing_is_booted(guest_of, error):
    guest = guest_of(PROVEN[0], kernel=broken(error("the reason")))
    seen = []
    with events.shown_by(seen.append), pytest.raises(error, match="nothing is booted"):
        make_guests(guest)
    assert any("the reason" in event.message for event in seen if isinstance(event, Complained))
