"""The journal of what users sent, and the log of what the system did."""
