"""Training of models: recipes, checkpoints, and the search for the best settings."""
