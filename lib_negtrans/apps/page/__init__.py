"""The standalone page: the panels on one local web page, for who has no webui."""
