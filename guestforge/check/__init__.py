"""The named boot checks of a built guest, and their report."""
