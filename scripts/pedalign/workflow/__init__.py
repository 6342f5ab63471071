"""What the rules ask: the typed config, and what follows from it for each job."""
