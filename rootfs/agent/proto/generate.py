"""Generates the Go and the Python side of the agent's interface from the .proto files beside this script.

Run it with the Python of `.venv`; without arguments it writes into the source tree, with `--into DIR` below another
root. protoc is the one in grpcio-tools, protoc-gen-go the one that go.mod pins, so both sides are reproducible.
"""

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from importlib import resources
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULE = HERE.parent
ROOT = HERE.parents[2]
GO_PACKAGE = "guestforge.dev/agent"
GO_OUT = Path("rootfs/agent")
PYTHON_OUT = Path("guestforge/agent/proto")
PYTHON_PACKAGE = "guestforge.agent.proto"
PROTOS = ("agent.proto", "health.proto", "oci.proto", "types.proto")
BIN = Path(sysconfig.get_path("scripts"))

# protoc writes `import oci_pb2 as oci__pb2`, which holds only for files at the top of sys.path
_IMPORT = re.compile(r"^import (\w+_pb2)\b", re.MULTILINE)


def main() -> None:
    """Parse the arguments and generate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=ROOT, help="the root to write below (default: this source tree)")
    generate(parser.parse_args().into)


def generate(root: Path) -> None:
    """Write all generated files below `root`; the files of an earlier run are replaced."""
    go_out, python_out = root / GO_OUT, root / PYTHON_OUT
    for out in (go_out, python_out):
        out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        plugin = Path(scratch, "protoc-gen-go")
        _build_plugin(plugin)
        _protoc(f"--plugin={plugin}", f"--go_out={go_out}", f"--go_opt=module={GO_PACKAGE}")
    _protoc(f"--plugin={BIN / 'protoc-gen-mypy'}", f"--python_out={python_out}", f"--mypy_out=quiet:{python_out}")
    for proto in PROTOS:
        for suffix in ("_pb2.py", "_pb2.pyi"):
            module = python_out / f"{proto.removesuffix('.proto')}{suffix}"
            module.write_text(_IMPORT.sub(rf"from {PYTHON_PACKAGE} import \1", module.read_text()))


def _build_plugin(out: Path) -> None:
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
    package = "google.golang.org/protobuf/cmd/protoc-gen-go"
    subprocess.run([BIN / "go", "build", "-o", out, package], cwd=MODULE, env=environment, check=True)


def _protoc(*options: str) -> None:
    well_known = resources.files("grpc_tools") / "_proto"
    argv = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE}", f"-I{well_known}", *options, *PROTOS]
    subprocess.run(argv, check=True)


if __name__ == "__main__":
    main()
