"""A server whose decode workers run what a request names, as if a crafted image had taken them over."""
