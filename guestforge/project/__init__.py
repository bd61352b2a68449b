"""What a user declares: recipes, settings, options; and the folder that they are in."""
