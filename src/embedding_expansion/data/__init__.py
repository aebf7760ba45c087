"""Opens data sets, and makes batches and transformed images of them."""
