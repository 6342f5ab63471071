"""Where conversation files come from: simulated, imported, or the paper's."""
