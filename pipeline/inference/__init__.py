"""Models at work: loaded from artifacts, fed with cached features, asked in batches."""
