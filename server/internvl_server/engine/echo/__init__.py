"""The echo engine: answers without a model, for tests and client development."""
