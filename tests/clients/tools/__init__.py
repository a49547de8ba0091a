"""An app of the clients' tests: a tool that the demo has no use for."""
