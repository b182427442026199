"""Work in the background, for whoever has a user interface: one job at a time, plain data for who looks."""
