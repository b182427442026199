"""From any tree of pictures to a folder that can be trained on."""
