"""What the developers of guestforge run, and its users need not."""
