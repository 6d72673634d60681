"""Hard views for a repo that already trains: around its loader, without a change to its loop."""
