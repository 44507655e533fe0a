"""A search over settings: trials of a run, kept by Optuna, shared by processes."""
