"""The engine answers many users' requests at once by continuous batching."""
