"""The HTTP layer: routes, SSE, errors, authentication, admission. The only package that imports FastAPI."""
