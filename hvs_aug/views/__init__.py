"""What a view is drawn from, what was drawn, and how it is rendered."""
