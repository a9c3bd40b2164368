"""A trained run that answers over HTTP: an ASGI application, its page for people, and the server."""
