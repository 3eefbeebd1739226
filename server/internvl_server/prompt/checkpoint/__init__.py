"""The checkpoint's own chat template: sandboxed, bounded, and without the texts of clients."""
