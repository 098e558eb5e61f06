"""Jobs: the queue of consolidations, and the workers that empty it."""
