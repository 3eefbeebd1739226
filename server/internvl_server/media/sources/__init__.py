"""From a URL to encoded bytes: `data:` URLs, fetching and its address policy."""
