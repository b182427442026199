"""Training jobs: one object per kind; events out, a stop request in."""
