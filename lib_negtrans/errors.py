"""What all errors have in common that a user can do something about."""

MAXIMUM_SENTENCE = 500  # characters in an answer to a request, whose values a message may repeat


class UserError(Exception):
    """The message is one sentence that says what is wrong and what to do; the command line ends with it."""


def shortened(sentence: str) -> str:
    """The sentence; of a very long one its beginning and its end."""
    if len(sentence) <= MAXIMUM_SENTENCE:
        return sentence
    return f"{sentence[: MAXIMUM_SENTENCE // 2]} .. {sentence[-MAXIMUM_SENTENCE // 2 :]}"
