"""A script for each op: equality first, then time."""
