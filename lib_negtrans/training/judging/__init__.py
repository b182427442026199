"""Whether a training works: measures on pictures that are not trained on, previews, and a verdict in words."""
