"""What became of every request: raw exchanges, how each of them ended, and a ledger of all."""
