"""Serving: versions answer their users, and what users say becomes new versions."""
