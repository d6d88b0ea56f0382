"""Many jobs at once: retried or cancelled by what they have in common."""
