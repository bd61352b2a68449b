"""What a CI system has to build: each guest and architecture, with keys that follow from files alone."""
