"""`python -m farspan_server` is the `farspan` command."""

from farspan_server.cli import main

main(prog_name="farspan")
