"""Adapters: fairtat's attacks behind the interfaces of other libraries."""
