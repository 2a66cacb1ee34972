"""How fast packets become flow records, beside other programs on the same captures."""
