"""Other libraries in the same bench. Each program runs in an environment of its own, with what the .txt beside it pins."""
