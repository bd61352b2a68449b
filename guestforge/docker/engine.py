"""A Docker engine, or what answers as one (Podman): found where Docker's own client finds it, and its errors told."""

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import docker
import requests
import urllib3
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.errors import APIError, DockerException, ImageNotFound, TLSParameterError
from docker.utils import kwargs_from_env

from guestforge.core.errors import BuildError, GuestforgeError, UserError

SCHEMES: Final = ("unix", "tcp", "ssh")
DEFAULT: Final = "unix:///var/run/docker.sock"  # https://docs.docker.com/reference/cli/docker/#environment-variables
LIMIT: Final = 60  # seconds for one answer; what takes longer is waited for by streams
# What engines call the architectures, besides the kernel's names: https://pkg.go.dev/internal/platform
MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
# What goes wrong at an engine: what it says, and what a connection does in the middle of an answer.
FAULTS: Final = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)
INSTALL: Final = "install and start one (Debian's package is docker.io), or name one with DOCKER_HOST"
FULL: Final = "no space left on device"


class EngineGoneError(BuildError):
    """An engine does not answer any more."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that has answered; `address` is how a user names it."""

    client: docker.DockerClient
    address: str
    is_here: bool  # it has this machine's files
    options: tuple[str, ...]  # of security, as it says itself
    is_podman: bool = False


def find_engine(address: str | None = None) -> Engine:
    """Return the engine at an address, by default that which DOCKER_HOST names, else the usual one.

    Raises UserError where none answers, none lets us, or one of another architecture does.
    """
    named = f"--on {address}" if address else f"DOCKER_HOST={os.environ.get('DOCKER_HOST', '')}"
    address = address or os.environ.get("DOCKER_HOST") or DEFAULT
    scheme, _, _ = address.partition("://")
    if scheme not in SCHEMES:
        raise UserError(f"{named}: not the address of an engine", hint=f"it begins with {'://, '.join(SCHEMES)}://")
    try:
        said = _client(address, DEFAULT_DOCKER_API_VERSION).api.version(api_version=False)
        client = _client(address, str(said["ApiVersion"]))
        info = client.info()
    except FAULTS as e:
        raise _unreachable(e, address) from e
    machine = str(info.get("Architecture", ""))
    if MACHINES.get(machine, machine) != platform.machine():
        raise UserError(
            f"the engine at {address} is of {machine}, and this machine of {platform.machine()}",
            hint="name an engine of this machine with DOCKER_HOST",
        )
    options = tuple(map(str, info.get("SecurityOptions") or ()))
    return Engine(client, address, scheme == "unix", options, is_podman="Podman" in str(said.get("Components")))


def _client(address: str, version: str) -> docker.DockerClient:
    """Return a client that speaks a version of the API, with the certificates that Docker's own client takes.

    What else the environment says of HTTP is of other servers: REQUESTS_CA_BUNDLE would replace the engine's authority.
    """
    tls = kwargs_from_env().get("tls") or False
    client = docker.DockerClient(
        base_url=address, version=version, timeout=LIMIT, tls=tls, use_ssh_client=address.startswith("ssh://")
    )
    client.api.trust_env = False
    return client


@contextlib.contextmanager
def engine_errors(engine: Engine, what: str) -> Iterator[None]:
    """Turn what goes wrong at an engine while a block works with it into an error of ours: `what` was to be done."""
    try:
        yield
    except FAULTS as e:
        raise told(e, engine, what) from e


def has_image(engine: Engine, name: str) -> bool:
    """Whether an engine has an image, which it is not to look for elsewhere."""
    with engine_errors(engine, f"looking for the image {name}"):
        try:
            engine.client.images.get(name)
        except ImageNotFound:
            return False
    return True


def told(error: Exception, engine: Engine, what: str) -> GuestforgeError:
    """Return the error for what an engine said, or for one that says nothing any more."""
    if isinstance(error, APIError) and error.response is not None:
        return refused(str(error.explanation or error), what)
    return EngineGoneError(
        f"{what}: the engine at {engine.address} went away",
        hint="start it, and then the same command again: what was built is kept",
    )


def refused(message: str, what: str) -> GuestforgeError:
    """Return the error for an engine that did not do what it was to do."""
    hint = "free some space there (docker system prune), or give the engine another --data-root"
    return BuildError(f"{what}: {message[-500:].strip()}", hint=hint if FULL in message.lower() else None)


def _unreachable(error: Exception, address: str) -> UserError:
    causes = list(_causes(error))
    if isinstance(error, TLSParameterError):
        place = os.environ.get("DOCKER_CERT_PATH") or "~/.docker"
        hint = "they are ca.pem, cert.pem and key.pem in $DOCKER_CERT_PATH"
        return UserError(f"{place} does not have the certificates for the engine at {address}", hint=hint)
    if any(isinstance(each, PermissionError) for each in causes):
        hint = "have an administrator add you to the group docker, which is as good as root, or use a rootless engine"
        return UserError(f"the Docker engine at {address} does not let you in", hint=hint)
    if any(isinstance(each, FileNotFoundError) for each in causes):
        return UserError(f"there is no Docker engine at {address}", hint=INSTALL)
    return UserError(f"no Docker engine answers at {address}: {str(causes[-1])[:300]}", hint=INSTALL)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it came from, as requests and urllib3 hand them up: the first one last."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        more = (each.__cause__, each.__context__, *each.args)
        waiting += [one for one in more if isinstance(one, BaseException)]
