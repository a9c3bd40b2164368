"""Training by several processes, each of which owns a part of users, items and entities."""
