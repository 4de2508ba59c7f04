"""Edit the user's own source where findings lie in it. Formatting and comments are kept. Needs no torch."""
