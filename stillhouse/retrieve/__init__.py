"""Stage 6: a memory that is not in the weights answers from its passages."""
