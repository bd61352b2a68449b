"""The environment in which every program of ours runs: small, fixed, and the same for every user."""

import os
from collections.abc import Mapping

# Passed through where set: what a user configures a tool with, and nothing that could change a build's result unseen.
PASSED_THROUGH = (
    "PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "TERM",
    "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOSUMCHECK", "GOPRIVATE", "GONOPROXY", "GOINSECURE", "GOAUTH", "GOENV",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE",
)  # fmt: skip

# Where Debian keeps mke2fs, debugfs and the like; a user's PATH often lacks it.
SYSTEM_PATHS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment that every program gets: fixed locale and time zone, the user's PATH and proxies."""
    env = {name: os.environ[name] for name in PASSED_THROUGH if name in os.environ}
    path = env.get("PATH", os.defpath).split(os.pathsep)
    env["PATH"] = os.pathsep.join([*path, *(p for p in SYSTEM_PATHS if p not in path)])
    env |= {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
    return env | dict(extra or {})
