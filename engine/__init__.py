import installed  # noqa: F401
