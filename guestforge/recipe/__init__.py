"""What to build, declared in TOML below `recipes/`, read into strict models."""
