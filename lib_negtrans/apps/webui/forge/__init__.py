"""What is Forge's alone."""
