"""The commands: a file without an underscore is one, its name is the name people type, and `add` declares it."""
