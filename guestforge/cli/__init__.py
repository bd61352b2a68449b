"""The command line: the only one that reads it, and the only one that prints."""
