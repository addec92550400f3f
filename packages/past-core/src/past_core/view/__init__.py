"""`past view`: one slide and its cells in the browser, served to this machine alone."""
