"""What one accelerator does with the project's own passes, updates, heads and batches; no Ray."""
