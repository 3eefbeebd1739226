"""The OpenAI wire format: wire to core, core to wire. No I/O."""
