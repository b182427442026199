"""What all errors have in common that a user can do something about."""


class UserError(Exception):
    """The message is one sentence that says what is wrong and what to do; the command line ends with it."""
