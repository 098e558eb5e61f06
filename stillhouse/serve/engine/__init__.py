"""The engine: continuous batching of many users' rows."""
