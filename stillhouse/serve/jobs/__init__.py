"""The queue of jobs and who works on it."""
