"""What people start: the command line, the page, the webui's extension, and the panels and routes that they share."""
