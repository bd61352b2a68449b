"""What goes into a guest: the agent, and the tree of files around it."""
