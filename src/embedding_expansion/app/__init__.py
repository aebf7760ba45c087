"""The command line `embex`: one file per command, HTML pages and the server."""
