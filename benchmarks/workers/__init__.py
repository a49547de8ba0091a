"""Processes that run this project's streams without HTTP: what the parts about streams measure."""
