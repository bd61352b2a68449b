"""Keys of steps that follow from files alone, before anything was built: not the store's, but they change with them.

A key of the store has the digests of what other steps made. One of these has in their place the keys of those steps,
so that it changes whenever that of the store may, and now and then where that of the store turns out not to.
"""

from collections.abc import Mapping
from typing import Any

from guestforge.ci.checkout import Checkout
from guestforge.ci.declared import declared
from guestforge.ci.plan import Plan
from guestforge.core.graph import walk
from guestforge.core.store import key_of


def step_keys(plan: Plan, checkout: Checkout) -> Mapping[str, str]:
    """Return the key of each step of a plan, by the step's role; raises UserError for wrong fragments."""
    keys: dict[str, str] = {}
    for step in walk(*plan.targets):
        inputs: dict[str, Any] = {
            "arch": step.arch,
            "variant": step.variant,
            "declared": declared(step, plan, checkout),
            "uses": {role: [keys[use.step.role], *use.files] for role, use in step.uses.items()},
            "code": checkout.code(*step.code),
        }
        keys[step.role] = key_of(step.name, inputs)
    return dict(sorted(keys.items()))


def key_of_all(keys: Mapping[str, str]) -> str:
    """Return one key over those of all steps."""
    return key_of("guest", keys)
