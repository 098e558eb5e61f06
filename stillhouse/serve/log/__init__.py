"""The journal of what users said, and the log of what the system did."""
