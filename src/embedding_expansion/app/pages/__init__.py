"""The HTML pages of search, clusters and near-duplicates; what they share with the report of a run is here too."""
