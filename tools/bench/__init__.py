"""The commands that measure, and write docs/figures.md."""
