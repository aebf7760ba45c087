"""What the HTML pages of search, clusters, near-duplicates and run reports share: templates, images, rendering."""
