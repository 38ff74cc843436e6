"""A user's jobs: looking at them, cancelling them, deleting their files."""
