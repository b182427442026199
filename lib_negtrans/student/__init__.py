"""A student: a model that has learnt to translate in one UNet call; its network and its file."""
