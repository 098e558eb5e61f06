"""Text: what is said to a model, what a memory states, when two answers are the same, in which language."""
