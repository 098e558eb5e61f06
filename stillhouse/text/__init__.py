"""Text: what is said to a model, what a memory states, when answers are the same."""
