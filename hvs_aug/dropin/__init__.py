"""Hard views for a repo that already trains: its loader is wrapped, and its loop is not changed."""
