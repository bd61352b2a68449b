"""Debian's docker-registry on this machine, for as long as a block lasts."""

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request

CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
{more}
"""


@contextlib.contextmanager
def registry(directory, more=""):
    """Start a registry that keeps its files below a directory; yield its port."""
    port = free_port()
    directory.mkdir(exist_ok=True)
    config = directory / "config.yml"
    config.write_text(CONFIG.format(root=directory / "blobs", port=port, more=more))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        _wait(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def skopeo(*words):
    """What skopeo prints."""
    done = subprocess.run(["skopeo", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def free_port():
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait(port, process):
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise AssertionError("docker-registry did not start")


def get(port, path, accept="*/*"):
    """What a registry says at a path: the status, and what it holds."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/{path}", headers={"Accept": accept})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def tags(port, repository):
    status, data = get(port, f"{repository}/tags/list")
    return set(json.loads(data)["tags"] or []) if status == 200 else set()
