"""HTTP: the routes, and what every request passes through."""
