"""What the records of a run add up to: pure functions over records, and the report made of them."""
