"""Where the builder image takes its packages from: the host's own sources of the suite, with the host's keys.

Credentials (auth.conf) are left out: what is copied into an image stays in it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from guestforge.core.run import find_tool, run
from guestforge.sources.hostapt import ETC, KEPT, debian_mirror, host_stanzas, serves_main

SOURCES: Final = "etc/apt/sources.list.d/host.sources"
SETTINGS: Final = "etc/apt/apt.conf.d/host"
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
# Of the host's settings those that say how a mirror is spoken to. Proxies may have passwords in them: they are given to
# the build, and are in no image.
TAKEN: Final = ("Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::Retries", "Acquire::ForceIPv4")
PROXIES: Final = {"http_proxy": "Acquire::http::Proxy", "https_proxy": "Acquire::https::Proxy"}


def image_files(suite: str, mirror: str | None, etc: Path = ETC) -> dict[str, bytes]:
    """Return the files, by their paths in the image, with which its apt takes a suite from where the host does."""
    stanzas = list(_stanzas(suite, mirror, etc))
    keys = {path for stanza in stanzas for path in stanza.get("signed-by", "").split() if path.startswith("/")}
    files = {SOURCES: "\n".join(map(_written, stanzas)).encode(), SETTINGS: _settings().encode()}
    files |= {path.lstrip("/"): Path(path).read_bytes() for path in sorted(keys) if Path(path).is_file()}
    if CERTIFICATES.is_file():
        files[str(CERTIFICATES).lstrip("/")] = CERTIFICATES.read_bytes()
    return files


def proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies that the host's apt uses, as an environment has them; those of the environment come first."""
    found = {name: value for name, setting in PROXIES.items() if (value := _setting(setting))}
    return found | {name: environment[name] for name in (*PROXIES, "no_proxy") if environment.get(name)}


def _stanzas(suite: str, mirror: str | None, etc: Path) -> Iterator[Mapping[str, str]]:
    found = [] if mirror else [stanza for stanza in host_stanzas(etc) if _is_of(stanza, suite)]
    if found:
        yield from found
        return
    main = debian_mirror(mirror, etc)
    options = {name.lower(): value for name, value in main.options.items()}
    yield {"types": "deb", "uris": main.uri, "suites": f"{suite} {suite}-updates", "components": "main", **options}


def _is_of(stanza: Mapping[str, str], suite: str) -> bool:
    suites = stanza.get("suites", "").split()
    return (
        serves_main(stanza)
        and bool(suites)
        and all(name == suite or name.startswith((f"{suite}-", f"{suite}/")) for name in suites)
        and not stanza.get("uris", "").startswith(("cdrom:", "file:", "copy:"))
    )


def _written(stanza: Mapping[str, str]) -> str:
    names = (name for name in ("URIs", "Suites", "Components", *KEPT) if name.lower() in stanza)
    return "".join(("Types: deb\n", *(f"{name}: {stanza[name.lower()]}\n" for name in names)))


def _settings() -> str:
    return "".join(f'{name} "{value}";\n' for name in TAKEN if (value := _setting(name)))


def _setting(name: str) -> str:
    """Return a setting of the host's apt; nothing where there is none, or no apt."""
    if find_tool("apt-config") is None:
        return ""
    done = run(["apt-config", "shell", "found", name], check=False)
    text = done.output.strip() if done.returncode == 0 else ""
    return text.removeprefix("found='").removesuffix("'") if "\n" not in text else ""
