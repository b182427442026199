"""Several processes on one piece of work: who does what."""
