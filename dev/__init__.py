"""Tools for working on the repository; nothing here is installed."""
