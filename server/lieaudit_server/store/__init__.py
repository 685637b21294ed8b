"""What survives a crash: the data folder with its SQLite state and its blobs."""
