"""The edge: routes, SSE, the error table, auth, limits, admission. Alone knows HTTP."""
