"""An app of the live tests' own: tools that the demo has no use for."""

TOKEN_PREFIX = "live-token-"
