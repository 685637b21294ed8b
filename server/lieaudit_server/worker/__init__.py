"""What runs in a process of its own: one check of an upload, one inspection or one audit, then the process ends."""
