"""Where models come from: every host gives the two jobs what `protocol.ModelHost` names."""
