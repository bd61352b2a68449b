"""Overhead as a RuntimeClass of Kubernetes: https://kubernetes.io/docs/concepts/scheduling-eviction/pod-overhead/."""

from guestforge.arch import Arch
from guestforge.overhead.figures import PodFixed

TEMPLATE = """\
{comments}
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: {name}
  annotations:
    guestforge/accelerator: {accelerator}
handler: {handler}
overhead:
  podFixed:
    memory: {memory}Mi
    cpu: {cpu}m
scheduling:
  nodeSelector:
    kubernetes.io/arch: {arch}
"""


def runtimeclass(arch: Arch, handler: str, accelerator: str, fixed: PodFixed, comments: tuple[str, ...]) -> str:
    """Return the YAML of a RuntimeClass with a comment for each line of `comments`.

    Its name is the handler's and the architecture's: each architecture has an overhead of its own. The handler is one
    that options.py lets in, a DNS label: YAML takes it as it is, but for a number or a word of YAML's own.
    """
    return TEMPLATE.format(
        comments="\n".join(f"# {_plain(line)}" for line in comments),
        name=f"{handler}-{arch.go}",
        accelerator=accelerator,
        handler=f'"{handler}"',
        memory=fixed.memory_mib,
        cpu=fixed.cpu_millicores,
        arch=arch.go,
    )


def _plain(text: str) -> str:
    """Return a text that can't end a comment."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
