"""Our flow records beside those of other programs on the same captures, with every difference explained."""
