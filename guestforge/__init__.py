"""Cross-builds minimal guest kernels and images for VM-isolated containers, and proves each by booting it."""

__version__ = "0.1.0"
