"""What is allowed on purpose, and whether it still has to be."""
