"""Log files become runs: entries are found, files are told apart, and what the server has says where to go on."""
