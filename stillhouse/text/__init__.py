"""Prompts, the statements of a memory, the comparison of answers, running text; and the language of all of it."""
