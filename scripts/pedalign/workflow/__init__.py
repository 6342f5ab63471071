"""The typed config, and what follows from it for each job of the rules."""
