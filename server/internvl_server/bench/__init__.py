"""`internvl-server bench`: a load generator for any server with OpenAI's API, and its figures."""
