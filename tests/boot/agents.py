"""Agents with a fault, in Go as the real one is, and initrds that hold them."""

import shutil
import sys
from pathlib import Path

from guestforge.core.cache import user_cache
from guestforge.core.run import run
from guestforge.image.compress import compression_for
from guestforge.image.cpio import write_initrd
from guestforge.kernel.dotconfig import read_dotconfig
from guestforge.kernel.step import CONFIG_COPY
from guestforge.rootfs.agent import AGENT, go_environment
from guestforge.rootfs.flavour import initrd_tree

EXITS = """
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Println("agent: I give up")
	os.Exit(7)
}
"""

SLEEPS = """
package main

import (
	"fmt"
	"time"
)

func main() {
	fmt.Println("agent: I think about it")
	time.Sleep(time.Hour)
}
"""

# The real agent, embedded, and beside it a process that does FAULT as soon as the disk under test is mounted. The agent
# may have left the first root behind: it is looked for where /proc/1/root is by then.
REAL_WITH_FAULT = """
package main

import (
	_ "embed"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

//go:embed real
var real []byte

func main() {
	if os.Getenv("FAULT") != "" {
		os.Mkdir("/p", 0755)
		syscall.Mount("proc", "/p", "proc", 0, "")
		for {
			if found, _ := filepath.Glob("/p/1/root/run/kata-containers/sandbox/storage/*/data"); found != nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		fault()
		time.Sleep(time.Hour)
	}
	os.WriteFile("/real", real, 0755)
	os.StartProcess("/init", []string{"init"}, &os.ProcAttr{Env: []string{"FAULT=1"}, Files: []*os.File{nil, os.Stdout, os.Stderr}})
	syscall.Exec("/real", os.Args, os.Environ())
}

func fault() { FAULT }
"""  # noqa: E501 - Go's

DIES = "syscall.Kill(1, syscall.SIGQUIT)"
WARNS = 'os.WriteFile("/dev/kmsg", []byte("<4>WARNING: CPU: 0 PID: 1 at kernel/broken.c:1\\n"), 0)'


class Agents:
    """Builds agents below a directory."""

    def __init__(self, directory, pipeline):
        self._directory = directory
        self._pipeline = pipeline

    def build(self, arch, source):
        """Return the agent that a Go source makes for an architecture."""
        place = self._directory / arch
        place.mkdir(exist_ok=True)
        pipeline = self._pipeline(arch)
        shutil.copyfile(pipeline.agent.path / AGENT, place / "real")
        (place / "main.go").write_text(source)
        go = Path(sys.executable).with_name("go")
        run([go, "build", "-o", "agent", "main.go"], cwd=place, env=go_environment(user_cache().path, pipeline.arch))
        return place / "agent"

    def build_with_fault(self, arch, fault):
        """Return the real agent with something that goes wrong as soon as the disk under test is mounted."""
        return self.build(arch, REAL_WITH_FAULT.replace("FAULT }", f"{fault} }}"))

    def initrd(self, arch, agent):
        """Return an initrd like the real one, but with another agent."""
        pipeline = self._pipeline(arch)
        out = self._directory / f"{arch}-initrd.img"
        tree = initrd_tree(pipeline.steps.rootfs, agent)
        write_initrd(tree, out, compression=compression_for(read_dotconfig(pipeline.kernel.path / CONFIG_COPY)))
        return out
