"""A plan of a machine to QEMU's arguments; the running machine, its console, and the programs behind its devices."""
