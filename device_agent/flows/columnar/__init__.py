"""The flow meter in columns: the records of the per-packet meter, from array operations over whole batches."""
