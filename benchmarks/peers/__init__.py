"""The peers' servers, each with the one tool ``add(a, b) -> {result}``."""
