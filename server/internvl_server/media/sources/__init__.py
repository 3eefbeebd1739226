"""From a URL to encoded bytes: `data:` URLs, fetching, and the policy for addresses."""
