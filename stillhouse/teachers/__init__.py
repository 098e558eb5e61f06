"""Who writes signals: models on this machine, or an endpoint."""
