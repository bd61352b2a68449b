"""What a private apt root is configured with: its directories, one source, and the host's settings below ours.

apt reads $APT_CONFIG first, then the host's apt.conf.d, then the main file, and the last word wins (apt.conf(5)). So
$APT_CONFIG does nothing but put a main file of ours in the host's place; that one takes the host's in and has the last
word. The host's proxies, TLS settings and credentials (auth.conf.d) hold; its hooks, pins and directories do not.
"""

from pathlib import Path

from guestforge.core.files import atomic_file
from guestforge.sources.hostapt import Mirror

HOST_MAIN = Path("/etc/apt/apt.conf")
DIRECTORIES = ("lists/partial", "state", "cache/archives/partial", "sources")

# Hooks do what only the host's own apt needs; pins would choose versions behind the recipe's back.
CLEARED = ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success")
PRIVATE = {
    "Dir::State": "state/",
    "Dir::State::lists": "lists/",
    "Dir::State::status": "status",  # empty: nothing is installed in this root
    "Dir::Cache": "cache/",
    "Dir::Cache::archives": "cache/archives/",
    "Dir::Cache::pkgcache": "cache/pkgcache.bin",
    "Dir::Cache::srcpkgcache": "cache/srcpkgcache.bin",
    "Dir::Etc::sourceparts": "sources/",
}
NONE = ("Dir::Etc::sourcelist", "Dir::Etc::preferences", "Dir::Etc::preferencesparts")
# Whatever the host says: a package that no key vouches for is an error.
VERIFIED = {
    "APT::Get::AllowUnauthenticated": "false",
    "Acquire::AllowInsecureRepositories": "false",
    "Acquire::AllowWeakRepositories": "false",
    "Acquire::AllowDowngradeToInsecureRepositories": "false",
}


def write(root: Path, suite: str, architecture: str, mirror: Mirror, *, as_root: bool) -> Path:
    """Make a root's directories and files; return the file for $APT_CONFIG. `as_root`: downloads are root's own."""
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    first = root / "first.conf"
    files = {
        first: f'Dir::Etc::main "{root / "apt.conf"}";\n',
        root / "apt.conf": configuration(root, architecture, as_root=as_root, host_main=HOST_MAIN.is_file()),
        root / "sources" / "debian.sources": source(suite, architecture, mirror),
        root / "status": "",
    }
    for path, text in files.items():
        if not path.is_file() or path.read_text() != text:
            with atomic_file(path, "w") as file:
                file.write(text)
    return first


def configuration(root: Path, architecture: str, *, as_root: bool, host_main: bool) -> str:
    """Return the root's main configuration file."""
    settings = {name: f"{root}/{place}" for name, place in PRIVATE.items()}
    settings |= dict.fromkeys(NONE, "/dev/null") | VERIFIED | {"APT::Architecture": architecture}
    if as_root:
        # apt's own download user can't get here, and apt would warn and go on without it
        settings["APT::Sandbox::User"] = "root"
    lines = [f'#include "{HOST_MAIN}";'] if host_main else []
    lines += [f"#clear {name};" for name in (*CLEARED, "APT::Architectures")]
    lines += [f'{name} "{value}";' for name, value in settings.items()]
    return "\n".join([*lines, f'APT::Architectures {{ "{architecture}"; }};', ""])


def source(suite: str, architecture: str, mirror: Mirror) -> str:
    """Return the root's one source, sources.list(5): package lists alone, no translations, no Contents, no icons."""
    fields = {
        "Types": "deb",
        "URIs": mirror.uri,
        "Suites": suite,
        "Components": "main",
        "Architectures": architecture,
        "Targets": "Packages",
        "Languages": "none",
        "PDiffs": "no",  # for lists that are asked for once in weeks the whole is quicker
        **mirror.options,
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items())
