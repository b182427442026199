"""One picture from render to photograph, and a folder of them."""
