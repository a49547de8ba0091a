"""An app of the clients' tests: tools that the demo has no use for."""
