"""The HTTP endpoints, and what is checked before they answer."""
