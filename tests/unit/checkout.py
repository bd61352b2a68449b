"""The files of the checkout that the tests are in."""

import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MADE = {"output", "__pycache__"}
HIDDEN = (".venv", ".git", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache")
LARGEST = 2_000_000  # bytes of a file that is read


def tracked_files(root=REPOSITORY):
    """The files that git keeps; without git all that no command has made."""
    named = _kept_by_git(root)
    if named is None:
        inside = (path.relative_to(root) for path in root.rglob("*"))
        named = [name for name in inside if not (MADE & set(name.parts) or name.parts[0].startswith(HIDDEN))]
    # one may have been removed and that not committed
    return [root / name for name in named if (root / name).is_file()]


def _kept_by_git(root):
    if shutil.which("git") is None or not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True)
    return [Path(name) for name in done.stdout.decode().split("\0") if name] if done.returncode == 0 else None


def named_in(path, pattern):
    """What of a file matches a pattern."""
    return pattern.findall(path.read_text(errors="replace")) if path.stat().st_size < LARGEST else []
