"""`python -m lib_negtrans COMMAND`: one file for each command."""
