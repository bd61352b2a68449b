"""A vhost-user back-end library: what every device of ours stands on, whatever it is."""
