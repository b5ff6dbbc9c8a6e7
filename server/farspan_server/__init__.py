"""The gateway, the supervisor and the command line."""
